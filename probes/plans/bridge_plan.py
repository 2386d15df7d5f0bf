"""The bridge plan: which understanding block meets which generation block, and how; plain JSON."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import check_names, check_options, checked, file_name
from ..file_formats import with_format, without_format
from ..files import write_atomically
from ..notebook_views import plan_drawing, table_view
from ..tensor_files import with_seal, without_seal
from .layout_table import LAYOUTS, TRUNKS, Pairs

STREAMS = ("image", "text", "both")
OF_EXPERT = ("subject", "opened", "weights")  # what a plan keeps of an expert
FREE_FIELDS = (
    "layout",
    "both_ways",
    "gated",
    "rank",
    "semantic_tokens",
    "taps",
)  # what a caller may set beside the pairs
NOISE = 0.05  # p above which a score is no more than unrelated features give


@dataclass(frozen=True)
class BridgePlan:
    """Which blocks of two experts are bridged and how, plain JSON.

    Attributes
    ----------
    pairs : tuple of (int, int)
        (understanding block, generation block), counted from 0 without the embeddings. They ascend, so that bridges
        neither cross nor repeat. A block of one tower may meet several of the other (LightFusion's surplus layers meet
        the last output again). In a layout of one trunk, (i, i) are the shared blocks.
    stream : str
        The stream of the generation tower that the bridges enter: "image", "text" or "both".
    rule : str
        The rule that chose the pairs.
    evidence : dict
        What the plan was chosen from, plain JSON: metric, k, samples, and under "x" and "y" the understanding and the
        generation expert (subject, where it was opened, a digest of its weights) and the timestep, as far as the rule
        has them. Where the map held a null: "peak_p", the p of its best block pair, and "within_null", the bridges
        whose score is within their own null. Under "stability" how far the plan depends on the samples, where
        `choose_bridges` was given draws.
    understanding_layers, generation_layers : int
        The number of blocks of the two towers.
    score : float or None
        What the rule gave this plan. None for a fixed plan.
    layout : str
        How the towers are joined, a name of `LAYOUTS`: "dense" (own weights, one joint attention: BAGEL, LMFusion), "H"
        (joint attention in the understanding expert's head space: HBridge), "double fusion" (a block behind each pair:
        LightFusion), "last" (cross-attention to the last understanding state: MetaQuery), "soft" (cross-attention to a
        learned mix of understanding blocks: Semantic Routing); or one trunk, "shared", "Y" (its first blocks shared:
        UniFork) or "X" (its middle shared: Uni-X).
    both_ways : bool
        Whether understanding reads generation as well.
    gated : bool
        Whether what a bridge brings passes a gate that starts at 0, where the expert is untouched. Without gates,
        "dense" and "H" change the expert from the start.
    rank : int or None
        The rank of the bridges' maps. None is full rank.
    semantic_tokens : int
        The number of learnt tokens on the generation side that reconstruct the understanding expert's features of the
        target image (HBridge). 0 is none.
    taps : tuple of tuple of int, or None
        Of "soft", the understanding blocks that are mixed, ascending: one tuple for each pair, or one that holds for
        all pairs. Whole numbers alone are taken for the latter. None is all blocks.

    Raises
    ------
    ValueError
        If pairs cross, repeat, are missing or out of range, if the stream or the layout is unknown, if a number is out
        of range or not finite, or if the layout does not allow the pairs or an option.
    TypeError
        If a field is of another type: 2.5 is no rank, and "false" is neither True nor False.

    See Also
    --------
    choose_bridges : Chooses the pairs from measurements or by a fixed rule.
    lay_out : Makes the published plan of a layout.

    Examples
    --------
    >>> plan = BridgePlan(((0, 1), (2, 3)), "image", "by hand", {}, understanding_layers=3, generation_layers=4)
    >>> plan.layout, plan.both_ways
    ('H', False)
    """

    pairs: Pairs
    stream: str = field(metadata={"allowed": {"known": STREAMS}})
    rule: str
    evidence: dict[str, Any] = field(hash=False)
    understanding_layers: int = field(metadata={"allowed": {"least": 1}})
    generation_layers: int = field(metadata={"allowed": {"least": 1}})
    score: float | None = None
    layout: str = field(default="H", metadata={"allowed": {"known": tuple(LAYOUTS)}})
    both_ways: bool = False
    gated: bool = True
    rank: int | None = field(
        default=None, metadata={"allowed": {"least": 1, "remedy": "leave it out for bridges of full rank"}}
    )
    semantic_tokens: int = field(default=0, metadata={"allowed": {"least": 0}})
    taps: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", pairs := _pairs(self.pairs))
        if self.taps is not None:
            object.__setattr__(self, "taps", _nested_taps(self.taps))
        check_options(self)
        for name in ("x", "y", "stability"):
            checked(f"evidence[{name!r}]", self.evidence.get(name), dict | None)
        checked("evidence['peak_p']", self.evidence.get("peak_p"), float | None, least=0, most=1)
        for u, g in pairs:
            if not (0 <= u < self.understanding_layers and 0 <= g < self.generation_layers):
                raise ValueError(
                    f"bridge {(u, g)} is out of range: the towers have {self.understanding_layers} and "
                    f"{self.generation_layers} blocks, counted from 0"
                )
        for first, second in pairwise(pairs):
            if not (first[0] <= second[0] and first[1] <= second[1] and first != second):
                raise ValueError(f"bridges {first} and {second} cross or repeat: pairs must ascend on both sides")
        _check_layout(self)
        if self.taps is not None:
            _check_taps(self)

    def mixed_blocks(self, number: int) -> tuple[int, ...]:
        """Return the understanding blocks that a bridge of the layout "soft" mixes.

        Parameters
        ----------
        number : int
            The bridge, an index into `pairs`.

        Returns
        -------
        tuple of int
            The blocks, counted from 0, ascending.
        """
        if self.taps is None:
            return tuple(range(self.understanding_layers))
        return self.taps[0 if len(self.taps) == 1 else number]

    @property
    def experts(self) -> tuple[dict[str, str], dict[str, str]]:
        """The understanding and the generation expert that the plan was chosen on, as far as that is known.

        Each has "subject", its name; where it was opened from a folder or the Hub "opened", and "weights", a digest.
        """
        known = (self.evidence.get("x") or {}, self.evidence.get("y") or {})
        found = [{name: str(side[name]) for name in OF_EXPERT if side.get(name)} for side in known]
        return found[0], found[1]

    def of_experts(self, understanding: Mapping[str, Any], generation: Mapping[str, Any]) -> BridgePlan:
        """Return the plan with the experts that it is for, where its evidence does not name them.

        Parameters
        ----------
        understanding, generation : mapping
            As `LayerFeatures.origin` has it: subject, and opened and weights where they are known.

        Returns
        -------
        BridgePlan
            The plan, whose evidence names them.

        See Also
        --------
        Recipe : Trains the plan on these experts.
        """
        sides = {"x": understanding, "y": generation}
        given = {side: {n: about[n] for n in OF_EXPERT if n in about} for side, about in sides.items()}
        return replace(self, evidence={side: about for side, about in given.items() if about} | self.evidence)

    @property
    def null_sentence(self) -> str:
        """Whether the map that the plan was chosen from is more than noise, in words; "" where no null was measured."""
        p = self.evidence.get("peak_p")
        if p is None:
            return ""
        said = f"The best block pair of the map has p = {p:.2g}, among the best of each permutation"
        if p > NOISE:
            return f"{said}: no more than unrelated features give, so that the plan is drawn from noise."
        within = self.evidence.get("within_null", ())
        return f"{said}. Within the null by themselves: {_listed(within) if within else 'no bridge'}."

    def __str__(self) -> str:
        """Return the pairs, what they were chosen by, and how stable that is, as far as it was measured."""
        lines = [f"{_listed(self.pairs)} (understanding - generation block), rule {self.rule}, layout {self.layout}"]
        known = {name: self.evidence.get(name) for name in ("metric", "k", "samples")}
        known["timestep"] = (self.evidence.get("y") or self.evidence).get("timestep")
        if any(value is not None for value in known.values()):
            lines.append(", ".join(f"{name} {value}" for name, value in known.items() if value is not None))
        lines += [self.null_sentence] if self.null_sentence else []
        if found := self.evidence.get("stability"):
            lines.append(found["sentence"])
            lines += [f"By {metric} it would be {_listed(pairs)}." for metric, pairs in found["metrics"].items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = {
            "bridges": plan_drawing(self.pairs, self.understanding_layers, self.generation_layers),
            "chosen": str(self),
            "score": "none, a fixed plan" if self.score is None else f"{self.score:.4g}",
        }
        return table_view(f"{len(self.pairs)} bridges, layout {self.layout}", rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all, with a hash of what it says under "seal".

        Parameters
        ----------
        path : str or path
            The file to write.

        Raises
        ------
        ValueError
            The evidence holds something that JSON does not, or there is a folder of this name.
        TypeError
            The path is no path.
        """
        path = file_name("path", path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file for the plan, such as {path / 'plan.json'}")
        try:
            content = with_seal(with_format("bridge plan", asdict(self)))
            text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"the evidence of the plan cannot be written as JSON ({error}): keep finite numbers, texts, lists and "
                "dicts with texts as keys in it"
            ) from None
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BridgePlan:
        """Read a plan from its file and check it.

        Parameters
        ----------
        path : str or path
            A file that `save` wrote, or that somebody wrote by hand, without a "seal".

        Returns
        -------
        BridgePlan
            The plan.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a bridge plan, or of a newer format, if it was changed since it was saved, or if the plan
            does not hold together.
        TypeError
            If the path is no path.
        """
        path = file_name("path", path)
        if not path.is_file():
            raise FileNotFoundError(f"no bridge plan {path}: make one with choose_bridges and save it")
        try:
            held = _read(path)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a bridge plan: {error}") from None
        try:
            held = without_seal(held)
        except (ValueError, RecursionError):
            raise ValueError(
                f'{path} is not the bridge plan that was saved: put back a copy, or take its "seal" out to accept '
                "what was changed"
            ) from None
        try:
            return cls(**_fields_of(held, path))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a bridge plan: {error}") from None


def _check_layout(plan: BridgePlan) -> None:
    if plan.layout in TRUNKS:
        _check_trunk(plan)
    layout = LAYOUTS[plan.layout]
    if fault := layout.fault(plan.pairs, plan.understanding_layers, plan.generation_layers):
        raise ValueError(fault)
    if layout.one_way and plan.both_ways:
        raise ValueError(f"the layout {plan.layout!r} runs one way: both_ways must be false")


def _check_taps(plan: BridgePlan) -> None:
    if not LAYOUTS[plan.layout].reads_all:
        takers = ", ".join(name for name, layout in LAYOUTS.items() if layout.reads_all)
        raise ValueError(f"the layout {plan.layout!r} reads the blocks of its pairs: taps are of {takers}")
    there, taps = range(plan.understanding_layers), plan.taps or ()
    for blocks in taps:
        if not blocks or list(blocks) != sorted(set(blocks)) or not set(blocks) <= set(there):
            raise ValueError(
                f"taps {blocks} must name understanding blocks from 0 to {there[-1]}, ascending and each once"
            )
    if len(taps) not in (1, len(plan.pairs)):
        raise ValueError(f"taps of {len(taps)} bridges for a plan of {len(plan.pairs)}: give one for all, or one each")


def _check_trunk(plan: BridgePlan) -> None:
    depths = plan.understanding_layers, plan.generation_layers
    if depths[0] != depths[1]:
        raise ValueError(f"one trunk has one depth, got {depths[0]} and {depths[1]} blocks: layout {plan.layout!r}")
    if plan.semantic_tokens or plan.rank:
        raise ValueError(f"the layout {plan.layout!r} has no bridges: leave rank and semantic_tokens out")
    start = plan.pairs[0][0]
    if plan.pairs != tuple((block, block) for block in range(start, start + len(plan.pairs))):
        raise ValueError(f"the shared blocks of {plan.layout!r} must be (i, i) without a gap, got {plan.pairs}")


def _listed(pairs: Iterable[Sequence[int]]) -> str:
    return " ".join(f"{u}-{g}" for u, g in pairs)


def _pairs(given: Any) -> Pairs:
    """Return pairs of whole numbers as a plan holds them."""
    try:
        pairs = tuple((_whole(u), _whole(g)) for u, g in given)
    except (TypeError, ValueError):
        raise ValueError(
            f"pairs must be (understanding layer, generation layer) whole numbers: {_short(given)}"
        ) from None
    if not pairs:
        raise ValueError("a bridge plan needs at least one pair")
    return pairs


def _nested_taps(given: Any) -> tuple[tuple[int, ...], ...]:
    """Return taps as one tuple for each pair, or one for all."""
    try:
        nested = [given] if all(np.isscalar(block) for block in given) else given
        return tuple(tuple(_whole(block) for block in blocks) for blocks in nested)
    except TypeError:
        raise ValueError(f"taps must be blocks, whole numbers, or such blocks for each pair: {_short(given)}") from None


def _read(path: Path) -> dict[str, Any]:
    """Return the object of JSON that a file holds."""
    try:
        held = json.loads(path.read_bytes().decode("utf-8"))
    except RecursionError:
        raise ValueError("expected the JSON that save wrote, which is not as deep") from None
    except ValueError as error:
        raise ValueError(f"expected the JSON that save wrote ({error})") from None
    if not isinstance(held, dict):
        raise ValueError(f"expected an object of JSON with the fields of a plan, got {_short(held)}")
    return held


def _fields_of(held: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of a plan, by name, if they are those of one."""
    held = without_format("bridge plan", path, held)[1]
    declared = {each.name: each for each in fields(BridgePlan)}
    check_names("field", held, declared)
    if lacking := [n for n, each in declared.items() if each.default is MISSING and n not in held]:
        raise ValueError(f"there is no {lacking[0]}: expected the JSON that save wrote")
    return held


def _short(value: object) -> str:
    return reprlib.repr(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(value)
    return int(value)
