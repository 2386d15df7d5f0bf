"""Declare the options of `choose`; this module imports no library of models, so that what is wrong is said at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..arguments import SEEDS, check_options, option
from ..comparison_options import DEFAULT_METRIC, METRIC_NAMES, MOST_DRAWS
from .bridge_plan import STREAMS
from .layout_table import LAYOUTS, MATCHINGS

# Of `RULES` and `FIXED`, whose modules take seconds to import.
SCORED = ("alignment", "complementarity", "descent", "causal", "gradient_conflict", "soft", "divergence")
UNSCORED = ("all", "middle", "shallow", "deep", "uniform", "first", "early", "last", "random")
PUBLISHED = "published"  # the pairs that the layout was published with
DEFAULT_RULE = "early"  # no rule that reads a map was shown to be better than depth (docs/verdict.md)
DRAWN = ("alignment", "complementarity")  # the rules whose plan is chosen again from halves of the samples
OF_MEASURING = ("metric", "k", "permutations", "evidence")
FEWEST_DRAWS = 10
AT_LEAST_1 = {"least": 1}


@dataclass(frozen=True)
class ChoiceOptions:
    """Hold the options of `bridgework choose`, which `choose_from_features` takes, each with its help.

    Attributes
    ----------
    rule, bridges, seed, stream
        As of `choose_bridges`; the rule "published" takes the layout's own pairs (`lay_out`).
    layout, matching, rank
        As of `lay_out`.
    metric, k, timestep
        What evidence is measured with: the metric of the layer map, its number of neighbours, and the timestep of the
        generation features.
    evidence
        A file that `read_evidence` reads, in place of measured evidence.
    draws, block
        As of `choose_bridges`, which is given the features.
    permutations
        How many permutations make the null of the layer map, as of `map_null`.

    Raises
    ------
    ValueError, TypeError
        A field has an unknown value, a number out of its range or another type, or two contradict each other.

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    rule: str = option(
        DEFAULT_RULE,
        f"How the pairs are chosen: one of {', '.join([*SCORED, *UNSCORED])}; or published, the pairs that the layout "
        "was published with.",
        {"known": (*SCORED, *UNSCORED, PUBLISHED)},
    )
    bridges: int | None = option(
        None,
        "How many bridges the plan has. (default: 4; for all, middle, shallow, deep and divergence the number follows "
        "from the towers)",
        AT_LEAST_1,
    )
    layout: str = option(
        "H", f"How the towers are joined at the bridges: one of {', '.join(LAYOUTS)}.", {"known": tuple(LAYOUTS)}
    )
    metric: str = option(
        DEFAULT_METRIC, "The similarity that the layer map and the curves are measured with.", {"known": METRIC_NAMES}
    )
    k: int = option(10, "The number of neighbours of mutual_knn and cknna.", AT_LEAST_1)
    timestep: float | None = option(
        None,
        "The timestep of the generation features that is read. (default: the only one; it must be given if the store "
        "holds several)",
        {"above": 0, "most": 1, "remedy": "0 is the clean image, 1 is noise"},
        flag="--timesteps",
    )
    evidence: str | None = option(
        None,
        "A file with the rule's evidence: a CSV or Parquet table, such as the links of a trained dense model, or a "
        "divergence as JSON. (default: it is measured from the two stores)",
        metavar="FILE",
    )
    seed: int = option(0, "The seed of the rule random, and of --draws.", SEEDS)
    draws: int | None = option(
        None,
        "Choose again from so many random halves of the samples, 200 for instance, and say how stable the plan is "
        "(rules alignment and complementarity). (default: not measured)",
        {"least": FEWEST_DRAWS, "most": MOST_DRAWS, "remedy": "200 are usual"},
    )
    block: int = option(
        1,
        "For --draws and --permutations: how many consecutive samples stay together, such as captions of a picture.",
        AT_LEAST_1,
    )
    permutations: int = option(
        200,
        "Permutations of the null that the map of the rule alignment is held against; 0 for none.",
        {"least": 0, "most": MOST_DRAWS},
    )
    matching: str | None = option(
        None,
        f"How the rule published pairs blocks of unequal towers: one of {', '.join(MATCHINGS)}. "
        "(default: the matching of the layout's paper)",
        {"known": MATCHINGS},
    )
    stream: str = option(
        "image", f"The generation tower's stream that is bridged: {', '.join(STREAMS)}.", {"known": STREAMS}
    )
    rank: int | None = option(None, "The rank of the bridges' linear maps. (default: full rank)", AT_LEAST_1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.rule in UNSCORED:
            for each in fields(self):
                if each.name in OF_MEASURING and getattr(self, each.name) != each.default:
                    raise ValueError(
                        f"--{each.name} is of rules that measure, and {self.rule} reads the depths alone: name another "
                        f"with --rule, alignment for instance, or leave --{each.name} out"
                    )
        if self.matching is not None and self.rule != PUBLISHED:
            raise ValueError("--matching is of --rule published: the other rules choose their pairs themselves")
        if self.bridges is not None and self.rule == PUBLISHED:
            raise ValueError("--bridges is of the other rules: --rule published has as many as the layout")
        if self.draws is not None and self.rule not in DRAWN:
            raise ValueError(
                f"draws measure the rules {' and '.join(DRAWN)}, whose evidence is a map of features, not "
                f"{self.rule!r}: leave draws out"
            )
