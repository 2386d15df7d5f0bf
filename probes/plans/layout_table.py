"""The layouts: how two experts are joined, which blocks each layout bridges as published, and how it is drawn.

To add a layout, add its row to `LAYOUTS` here, its bridge as a module of models/bridges, and that bridge to
models/bridges/registry.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Pairs = tuple[tuple[int, int], ...]

MATCHINGS = ("prelude", "repeat", "proportional", "optimal")  # of towers of unequal depth (`match`)
HBRIDGE = (6, 28)  # blocks without a bridge at either end, of so many pairs
UNI_X = (12, 6, 36)  # blocks apart at the start and at the end, of so many: the released recipe for Qwen2.5-3B


def unbridged(pairs: int) -> int:
    """Return how many pairs HBridge leaves out at either end: 6 of every 28.

    Parameters
    ----------
    pairs : int
        The number of pairs of the matching, at least 1.

    Returns
    -------
    int
        The number of pairs to leave out at the start, and as many at the end, rounded to the nearest (half up). One
        pair or two always stay.

    Examples
    --------
    >>> unbridged(28), unbridged(13), unbridged(1)
    (6, 3, 0)
    """
    return min(_scaled(pairs, *HBRIDGE), (pairs - 1) // 2)


def _scaled(blocks: int, part: int, whole: int) -> int:
    """Round `blocks * part / whole` to the nearest integer, half up."""
    return (2 * blocks * part + whole) // (2 * whole)


# Published pairs. Of a layout with a matching they are chosen from the matched pairs; of another one they are made from
# the two depths and the options of the layout.


def _every(matched: Pairs) -> Pairs:
    return matched


def _middle(matched: Pairs) -> Pairs:
    apart = unbridged(len(matched))
    return matched[apart : len(matched) - apart]


def _from_last(understanding: int, generation: int) -> Pairs:
    return tuple((understanding - 1, block) for block in range(generation))


def _whole_trunk(blocks: int, _: int) -> Pairs:
    return _diagonal(0, blocks)


def _first_blocks(blocks: int, _: int, fork: int | None = None) -> Pairs:
    if blocks < 2:
        raise ValueError(f"the layout 'Y' needs a trunk of 2 blocks or more, got {blocks}")
    stop = blocks // 2 if fork is None else fork
    if not 0 < stop < blocks:
        raise ValueError(f"fork {fork} must leave blocks on both sides: from 1 to {blocks - 1}")
    return _diagonal(0, stop)


def _inner_blocks(blocks: int, _: int, ends: tuple[int, int] | None = None) -> Pairs:
    if blocks < 3:
        raise ValueError(f"the layout 'X' needs a trunk of 3 blocks or more, got {blocks}")
    first, last = (max(1, _scaled(blocks, part, UNI_X[2])) for part in UNI_X[:2]) if ends is None else ends
    if not 0 < first < blocks - last < blocks:
        raise ValueError(f"ends {ends} of {blocks} blocks must be 1 or more each and leave a block between them")
    return _diagonal(first, blocks - last)


def _diagonal(start: int, stop: int) -> Pairs:
    return tuple((block, block) for block in range(start, stop))


# What a plan's pairs must be besides ascending and, for one trunk, (i, i) without a gap: None, or what is wrong.


def _no_fault(pairs: Pairs, understanding: int, generation: int) -> str | None:
    return None


def _not_from_last(pairs: Pairs, understanding: int, generation: int) -> str | None:
    last = understanding - 1
    wrong = [pair for pair in pairs if pair[0] != last]
    return f"bridge {wrong[0]} of the layout 'last' must read the last understanding block, {last}" if wrong else None


def _not_with_last(pairs: Pairs, understanding: int, generation: int) -> str | None:
    last = understanding - 1
    wrong = [pair for pair in pairs if pair[0] != last]
    if not wrong:
        return None
    return (
        f"bridge {wrong[0]} of the layout 'soft' must be paired with the last understanding block, {last}: what it "
        "reads is said by taps"
    )


def _not_whole(pairs: Pairs, blocks: int, _: int) -> str | None:
    if len(pairs) < blocks:
        return f"the layout 'shared' shares all {blocks} blocks, got {len(pairs)}: use Y or X"
    return None


def _not_first(pairs: Pairs, blocks: int, _: int) -> str | None:
    if pairs[0][0] > 0 or len(pairs) == blocks:
        return f"the layout 'Y' shares the first blocks, fewer than {blocks}, got {pairs}"
    return None


def _not_inner(pairs: Pairs, blocks: int, _: int) -> str | None:
    if pairs[0][0] == 0 or pairs[-1][0] == blocks - 1:
        return f"the layout 'X' leaves blocks at both ends of {blocks} apart, got {pairs}"
    return None


@dataclass(frozen=True)
class Layout:
    """How the blocks of an understanding and a generation expert are joined.

    Attributes
    ----------
    name : str
        The name that plans and recipes hold.
    sentence : str
        What joins the two tasks, as drawings say it.
    published : str
        Which blocks the published plan joins, and in which papers.
    drawn_as : str
        How `figures.architecture` draws it: "trunk" (one column of blocks), or between two towers "bands", "arrows",
        "blocks" (a block of its own behind each pair), "last" (arrows that leave the last understanding block) or
        "mix" (arrows from all blocks that are read to every bridged block).
    pairs : callable
        The published pairs. With a `matching`, a function of the matched pairs; without, a function of the two numbers
        of blocks and the `options`.
    fault : callable
        A function (pairs, understanding blocks, generation blocks) that returns what is wrong with a plan's pairs, or
        None.
    matching : str or None
        The matching of the paper, where any pair of blocks can be bridged; see `match`.
    options : tuple of str
        The options of `lay_out` that this layout takes beside `matching`.
    trunk : bool
        Whether one model does both tasks, and no bridges are trained.
    one_way : bool
        Whether understanding can never read generation.
    reads_all : bool
        Whether each bridge reads many understanding blocks, all of them or a plan's `taps`.
    """

    name: str
    sentence: str
    published: str
    drawn_as: str
    pairs: Callable[..., Pairs]
    fault: Callable[[Pairs, int, int], str | None] = _no_fault
    matching: str | None = None
    options: tuple[str, ...] = ()
    trunk: bool = False
    one_way: bool = False
    reads_all: bool = False

    def takes(self, option: str) -> bool:
        """Return whether `lay_out` can be given an option, "matching" or one of `options`, for this layout."""
        return option in self.options or (option == "matching" and self.matching is not None)


_TABLE = (
    Layout(
        "shared",
        sentence="one trunk for both tasks",
        published="all blocks of one trunk (Transfusion, Emu3)",
        drawn_as="trunk",
        pairs=_whole_trunk,
        fault=_not_whole,
        trunk=True,
    ),
    Layout(
        "Y",
        sentence="one trunk whose deep blocks fork into a branch for each task",
        published="the first `fork` blocks of one trunk, half of them by default (UniFork, arXiv 2506.17202)",
        drawn_as="trunk",
        pairs=_first_blocks,
        fault=_not_first,
        options=("fork",),
        trunk=True,
    ),
    Layout(
        "X",
        sentence="one trunk whose ends are apart, a pair for each task",
        published="all blocks of one trunk but the ends[0] first and ends[1] last; by default 12 and 6 of every 36, "
        "as in the recipe released with Uni-X (arXiv 2509.24365), rounded to the nearest, one at least",
        drawn_as="trunk",
        pairs=_inner_blocks,
        fault=_not_inner,
        options=("ends",),
        trunk=True,
    ),
    Layout(
        "dense",
        sentence="own weights, one joint attention",
        published="every pair of the matching; the papers' towers have one depth (BAGEL, LMFusion)",
        drawn_as="bands",
        pairs=_every,
        matching="proportional",
    ),
    Layout(
        "H",
        sentence="joint attention in the understanding expert's head space",
        published="the matching's middle: 6 of every 28 pairs are left out at either end, rounded to the nearest "
        "(half up), and one pair or two at least stay (HBridge, arXiv 2511.20520)",
        drawn_as="arrows",
        pairs=_middle,
        matching="prelude",
    ),
    Layout(
        "double fusion",
        sentence="behind each pair, a self-attention block over the tokens of both towers",
        published="a block behind every pair of the matching (LightFusion, arXiv 2510.22946)",
        drawn_as="blocks",
        pairs=_every,
        matching="repeat",
    ),
    Layout(
        "last",
        sentence="cross-attention to the last understanding state",
        published="every generation block reads the last understanding block (MetaQuery, BLIP3-o)",
        drawn_as="last",
        pairs=_from_last,
        fault=_not_from_last,
        one_way=True,
    ),
    Layout(
        "soft",
        sentence="cross-attention to a learned mix of understanding blocks",
        published="every generation block reads a mix of all understanding blocks, or of its `taps`, and is paired "
        "with the last (Semantic Routing, arXiv 2602.03510)",
        drawn_as="mix",
        pairs=_from_last,
        fault=_not_with_last,
        options=("taps",),
        one_way=True,
        reads_all=True,
    ),
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _TABLE}
TRUNKS = tuple(layout.name for layout in _TABLE if layout.trunk)  # one model for both tasks
