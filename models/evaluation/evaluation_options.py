"""Declare the options of `report`; this module imports no model, so that the command's help comes at once."""

from __future__ import annotations

from dataclasses import dataclass

from ...probes.arguments import SEEDS, check_options, option
from ..scenes.scene import PARTS


@dataclass(frozen=True)
class EvaluationOptions:
    """Hold the options of `report`, each with the sentence that `bridgework evaluate --help` shows.

    Attributes
    ----------
    part, each, seed, dense, distance, cost
        As the arguments of `report` (models/evaluation/reporting.py).

    Raises
    ------
    ValueError, TypeError
        A field has an unknown value, a number out of its range, or another type.

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    part: str = option("test", "The scenes to score on: test (new scenes) or new (new combinations).", {"known": PARTS})
    each: int = option(40, "How many captions or questions of each skill are scored.", {"least": 1, "most": 10**6})
    seed: int = option(0, "The seed that the scenes are drawn with.", SEEDS)
    dense: bool = option(False, "Score dense captions of two, three and four things as well.")
    distance: str | None = option(
        None,
        "Measure the distance of drawn images to real ones as well, by the features of this expert; without a name, of "
        "dinov2-s. (default: no distance is measured)",
        {"filled": True, "remedy": "name an expert, or leave it out"},
        nargs="?",
        const="dinov2-s",
        metavar="EXPERT",
    )
    cost: bool = option(
        False,
        "Measure what a training step costs as well: operations, time and memory.",
        aliases=("--costs",),
    )

    def __post_init__(self) -> None:
        check_options(self)
