"""Draw a fused or unified model of any layout from its plan alone."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from ..probes.arguments import checked
from ..probes.plans.bridge_plan import BridgePlan
from ..probes.plans.layout_table import LAYOUTS
from .plan_shapes import BETWEEN, BLOCK, PLACES, TRUNK, WIDTH, draw_arrow, draw_block, point_along, rounded_box
from .publishing.drawn import Drawn, remember
from .publishing.page import current_page, page_height, page_width, panels_across, points, wrapped
from .style import NOISE, QUIET, TRAINED, heading, one_panel, panels, styled

TASKS = ("understanding", "generation")
STREAMS = {
    "image": "each bridge enters the image stream",
    "text": "each bridge enters the text stream",
    "both": "each bridge enters both streams, image and text",
}


@styled
def architecture(
    plan: BridgePlan,
    names: tuple[str, str] = ("understanding expert", "generation expert"),
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw the model that a plan makes of two experts, first blocks at the bottom, numbered from 0.

    What the two tasks have in common is green: the bridges between two frozen towers, or the shared blocks of one
    trunk. Bridged blocks are coloured. "dense" is drawn as bands, "H" as arrows between blocks, "double fusion" as a
    block behind each pair, "last" as arrows from the last understanding block, "soft" as arrows from a line that all
    blocks of the mix run into. An arrow has two heads where both towers
    read, and a circle where a gate is. Where the deeper tower's first blocks are a prelude, they stand below the other
    tower.

    Parameters
    ----------
    plan : BridgePlan
        The plan.
    names : (str, str)
        The names of the two experts. A trunk may have been initialised from them.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Figure
        The drawing. With `ax`, the figure that it stands in.

    Raises
    ------
    TypeError
        If `plan` is no plan, `names` are not two texts, or `ax` is no Axes.
    ValueError
        If there are no names.

    See Also
    --------
    architectures : Draws several plans beside each other.

    Examples
    --------
    >>> figure = figures.architecture(lay_out("H", 28, 32), names=("Qwen2.5-VL", "Wan2.2"))
    """
    _check_plan("plan", plan)
    checked("names", names, tuple[str, str], remedy="they are the names of the two experts")
    size = page_width(6.2), page_height(2.2 + _inches(plan), 1.5 + 0.6 * _inches(plan))
    alone = ax is None
    figure, ax = one_panel(ax, size, "architecture")
    _draw(ax, plan, _top(plan), points(9.0))
    layout = LAYOUTS[plan.layout]
    entered = "" if layout.trunk else f"; {STREAMS[plan.stream]}"
    matched = ", ".join(filter(None, [_counted(plan), _matched(plan)]))
    title, sentence = f"{plan.layout}: {matched}{entered}", fill(layout.sentence, 80)
    if not alone:
        heading(ax, title, sentence)
    else:
        if current_page():
            title, sentence = wrapped(title, size[0], points(10)), wrapped(layout.sentence, size[0], points(9))
        figure.suptitle(title if current_page() else fill(title, 72), fontsize=points(10))
        ax.set_title(sentence, loc="center", fontsize=points(9), fontweight="normal", color=QUIET)
    below = {"y": _bottom(plan) - 0.05, "ha": "center", "va": "top", "linespacing": 1.4, "fontsize": points(9)}
    for side, name in enumerate(names):
        note = "\n".join([fill(name, 26 if size[0] > 4.5 else 16), wrapped(_blocks(plan, side), 1.2, points(9))])
        ax.text(PLACES[side] + WIDTH / 2, s=note, color="#333333", **below)
    ax.text(0.5, s="\n".join(_joined(plan)), color=TRAINED, **below)
    text = f"A model of the layout {plan.layout}: {matched}{entered}. {layout.sentence}"
    remember(figure, _drawn("architecture", [plan], text, {"names": list(names)}))
    return figure


@styled
def architectures(plans: Sequence[BridgePlan]) -> Figure:
    """Draw several plans beside each other, four in a row, each as `architecture` does and headed by its layout.

    Parameters
    ----------
    plans : sequence of BridgePlan
        The plans, at least one.

    Returns
    -------
    Figure
        The drawings.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If there are no plans.

    See Also
    --------
    architecture : Draws one plan with the names of its experts.

    Examples
    --------
    >>> figure = figures.architectures([lay_out(layout, 12, 14) for layout in ("H", "soft", "Y")])
    """
    checked("plans", plans, Sequence, remedy="pass a list of plans")
    if not plans:
        raise ValueError("architectures: no plans: pass at least one")
    for place, plan in enumerate(plans):
        _check_plan(f"plan {place}", plan)
    columns = panels_across(len(plans), 4, 1.05)
    rows = -(-len(plans) // columns)
    tallest = max(_inches(plan) for plan in plans)
    height = page_height(1.5 + 0.75 * tallest, 0.75 + 0.42 * tallest)
    figure, grid = panels(rows, columns, (page_width(2.9 * columns), height * rows))
    for ax in grid.flat[len(plans) :]:
        ax.remove()
    top = max(_top(plan) for plan in plans)
    for ax, plan in zip(grid.flat, plans, strict=False):
        _draw(ax, plan, top, points(7.5))
        heading(ax, plan.layout, "\n".join(_lines(plan)))
    layouts = ", ".join(dict.fromkeys(plan.layout for plan in plans))
    remember(figure, _drawn("architectures", plans, f"Bridge plans of the layouts {layouts}."))
    return figure


def _check_plan(name: str, plan: object) -> None:
    checked(name, plan, BridgePlan, remedy="make one with choose_bridges, or read it with BridgePlan.load")


def _drawn(function: str, plans: Sequence[BridgePlan], text: str, options: dict | None = None) -> Drawn:
    """Describe plans: a row for each pair, and in the table of a paper a row for each plan."""
    pairs, shown = [], []
    for number, plan in enumerate(plans):
        about = {"plan": number, "layout": plan.layout, "rule": plan.rule}
        pairs += [about | {"understanding block": int(u), "generation block": int(g)} for u, g in plan.pairs]
        shown.append({"layout": plan.layout, "rule": plan.rule, "pairs": ", ".join(f"{u}-{g}" for u, g in plan.pairs)})
    return Drawn(function, {"pairs": pd.DataFrame(pairs)}, text, pd.DataFrame(shown), options or {})


def _lines(plan: BridgePlan) -> list[str]:
    """Return what a small drawing says, always as many lines, so that headings beside each other stand level.

    On paper there is room for two; the caption has the rest.
    """
    if current_page():
        return [_counted(plan).split(", rule")[0], _matched(plan)]
    if LAYOUTS[plan.layout].trunk:
        return [_counted(plan), "", "", ""]
    trained, *rest = _joined(plan)[1:]
    stream = "both streams" if plan.stream == "both" else f"the {plan.stream} stream"
    return [_counted(plan), f"{trained}, into {stream}", ", ".join(rest), _matched(plan)]


def _draw(ax: Axes, plan: BridgePlan, top: float, size: float) -> None:
    """Draw the blocks, what joins them, what goes in and what comes out; `size` is that of letters, in points."""
    ax.set(xlim=(0, 1), ylim=(_bottom(plan), top + 1.5))
    ax.axis("off")
    (_trunk if LAYOUTS[plan.layout].trunk else _towers)(ax, plan, size)


def _towers(ax: Axes, plan: BridgePlan, size: float) -> None:
    lifts = _lifts(plan)
    for side, (blocks, lift) in enumerate(zip(_depths(plan), lifts, strict=True)):
        joined = {pair[side] for pair in plan.pairs} if side or not _mixes(plan) else _mixed(plan)
        for block in range(blocks):
            draw_block(ax, PLACES[side], block + lift, str(block), TASKS[side] if block in joined else None, size)
        middle = PLACES[side] + WIDTH / 2
        tokens = plan.semantic_tokens if side else 0
        into, out = ("text", "noisy image")[side], ("", "image")[side]
        _ends(ax, middle, (middle, lift), (middle, lift + blocks), into, out, size, tokens)
        if prelude := lifts[1 - side]:
            beside = (0.04, 0.96)[side]
            ax.text(
                beside, prelude / 2, "prelude", ha="center", va="center", rotation=90, fontsize=size - 1.5, color=QUIET
            )
    if _mixes(plan):
        _mix(ax, plan, lifts, size)
    for understanding, generation in plan.pairs:
        _bridge(ax, plan, understanding, generation, lifts, size)


def _bridge(ax: Axes, plan: BridgePlan, understanding: int, generation: int, lifts: Sequence[int], size: float) -> None:
    """Draw what joins one pair; its parts carry the pair as their gid."""
    drawn_as = LAYOUTS[plan.layout].drawn_as
    name = f"{understanding}-{generation}"
    left, right = PLACES[0] + WIDTH + 0.01, PLACES[1] - 0.005
    start, end = understanding + lifts[0] + 0.5, generation + lifts[1] + 0.5
    heads = "<|-|>" if plan.both_ways else "-|>"
    if drawn_as == "blocks":
        # the output of a block leaves it at its upper edge
        middle, start, end = (start + end) / 2 + 0.5, start + 0.5, end + 0.5
        ax.add_patch(rounded_box((BETWEEN, middle - 0.2), BLOCK, 0.4, TRAINED, TRAINED, name))
        entering, leaving = [(left, start), (BETWEEN, middle)], [(BETWEEN + BLOCK, middle), (right, end)]
        draw_arrow(ax, entering, size, heads=heads, name=name)
        draw_arrow(ax, leaving, size, heads="<|-|>", name=name)
        gates = [point_along(leaving, 0.5)] + [point_along(entering, 0.5)] * plan.both_ways
    elif drawn_as == "mix":
        draw_arrow(ax, [(0.5, end), (right, end)], size, name=name)
        gates = [(right - 0.045, end)]
    elif drawn_as == "last":
        draw_arrow(ax, [(left, start), (0.5, start), (0.5, end), (right, end)], size, name=name)
        gates = [(right - 0.045, end)]
    else:
        if drawn_as == "bands":
            corners = [(left - 0.01, start - 0.3), (left - 0.01, start + 0.3), (right, end + 0.3), (right, end - 0.3)]
            ax.add_patch(Polygon(corners, facecolor=TRAINED, alpha=0.22, lw=0, gid=name))
        line = [(left, start), (right, end)]
        draw_arrow(ax, line, size, heads=heads, name=name)
        gates = [point_along(line, 0.85)] + [point_along(line, 0.15)] * plan.both_ways
    for gate in gates if plan.gated else ():
        ax.plot(*gate, "o", ms=size / 1.8, mfc="white", mec=TRAINED, mew=1.2, zorder=4, gid=f"gate {name}")


def _mix(ax: Axes, plan: BridgePlan, lifts: Sequence[int], size: float) -> None:
    """Draw the line in the middle that every bridge of a mix leaves, and the mixed blocks' ways into it."""
    rows = [block + lifts[0] + 0.5 for block in _mixed(plan)]
    ends = rows + [generation + lifts[1] + 0.5 for _, generation in plan.pairs]
    for row in rows:
        ax.plot([PLACES[0] + WIDTH + 0.01, 0.5], [row, row], color=TRAINED, lw=size / 9, gid="mixed")
    ax.plot([0.5, 0.5], [min(ends), max(ends)], color=TRAINED, lw=size / 3, solid_capstyle="round", gid="mix")


def _mixes(plan: BridgePlan) -> bool:
    return LAYOUTS[plan.layout].drawn_as == "mix"


def _mixed(plan: BridgePlan) -> set[int]:
    """Return the understanding blocks that any bridge of a mix reads."""
    return {block for number in range(len(plan.pairs)) for block in plan.mixed_blocks(number)}


def _trunk(ax: Axes, plan: BridgePlan, size: float) -> None:
    """Draw shared blocks in the middle, blocks of one task at its side, a row apart where they meet and fork."""
    blocks, shared = plan.generation_layers, [block for block, _ in plan.pairs]
    meets, forks = _apart(plan)
    rows = [block + meets * (block >= shared[0]) + forks * (block > shared[-1]) for block in range(blocks)]
    for block, row in enumerate(rows):
        if block in shared:
            draw_block(ax, TRUNK, row, str(block), "both", size)
        else:
            for side, task in enumerate(TASKS):
                draw_block(ax, PLACES[side], row, str(block), task, size)
    for side, (into, out) in enumerate((("text, image", "text"), ("noisy image", "image"))):
        own, joint = PLACES[side] + WIDTH / 2, 0.5 + (-0.06, 0.06)[side]
        first, last = rows[shared[0]], rows[shared[-1]] + 1
        if meets:
            draw_arrow(ax, [(own, first - 0.95), (joint, first - 0.05)], size, name="meet")
        if forks:
            draw_arrow(ax, [(joint, last + 0.05), (own, last + 0.95)], size, name="fork")
        _ends(ax, own, (own if meets else joint, 0), (own if forks else joint, rows[-1] + 1), into, out, size)


def _ends(
    ax: Axes,
    middle: float,
    bottom: tuple[float, float],
    top: tuple[float, float],
    into: str,
    out: str,
    size: float,
    tokens: int = 0,
) -> None:
    """Draw what enters at the bottom (x, row) and what leaves at the top, written in the middle of the tower."""
    ways = [(-0.05, QUIET), (0.05, TRAINED)] if tokens else [(0.0, QUIET)]
    for aside, colour in ways:
        draw_arrow(ax, [(middle + aside, -0.95), (bottom[0] + aside, bottom[1] - 0.05)], size, colour)
        if out:
            draw_arrow(ax, [(top[0] + aside, top[1]), (middle + aside, top[1] + 0.8)], size, colour)
    texts = [(-1.05, into, "top", QUIET), (top[1] + 0.85, out, "bottom", QUIET)]
    if tokens:
        texts += [(-1.85, f"{tokens} semantic tokens", "top", TRAINED)]
        texts += [(top[1] + 1.65, "its features", "bottom", TRAINED)]
    for height, text, align, colour in texts:
        ax.text(middle, height, text, ha="center", va=align, color=colour, fontsize=size)


def _depths(plan: BridgePlan) -> tuple[int, int]:
    return plan.understanding_layers, plan.generation_layers


def _lifts(plan: BridgePlan) -> tuple[int, int]:
    """Return how many rows each tower stands higher: the shallower one by the deeper one's prelude, if there is one."""
    surplus = plan.generation_layers - plan.understanding_layers
    if {generation - understanding for understanding, generation in plan.pairs} != {surplus}:
        return 0, 0
    return max(surplus, 0), max(-surplus, 0)


def _apart(plan: BridgePlan) -> tuple[bool, bool]:
    """Return whether a trunk's tasks have blocks of their own before and behind the shared ones."""
    return plan.pairs[0][0] > 0, plan.pairs[-1][0] < plan.generation_layers - 1


def _top(plan: BridgePlan) -> int:
    """Return the rows that the drawing needs above 0."""
    if LAYOUTS[plan.layout].trunk:
        return plan.generation_layers + sum(_apart(plan))
    return max(_depths(plan)) + bool(plan.semantic_tokens)


def _bottom(plan: BridgePlan) -> float:
    return -2.7 if plan.semantic_tokens else -1.9


def _inches(plan: BridgePlan) -> float:
    return min(max(0.3 * _top(plan), 2.2), 7.0)


def _counted(plan: BridgePlan) -> str:
    """Say how many bridges or shared blocks there are, and which rule chose them."""
    count = len(plan.pairs)
    if LAYOUTS[plan.layout].trunk:
        return f"{count} of {plan.generation_layers} blocks shared, rule “{plan.rule}”"
    return f"K = {count} {'bridge' if count == 1 else 'bridges'}, rule “{plan.rule}”"


def _matched(plan: BridgePlan) -> str:
    """Say how towers of unequal depth were matched, and whether the map is noise, where the plan says so."""
    matching = f"matching “{plan.evidence['matching']}”" if "matching" in plan.evidence else ""
    p = plan.evidence.get("peak_p")
    noise = f"map within noise (p = {p:.2g})" if p is not None and p > NOISE else ""
    return ", ".join(filter(None, [matching, noise]))


def _blocks(plan: BridgePlan, side: int) -> str:
    if LAYOUTS[plan.layout].trunk:
        own = plan.generation_layers - len(plan.pairs)
        return f"{own or 'no'} blocks of its own"
    return f"{_depths(plan)[side]} blocks, frozen ❄"


def _joined(plan: BridgePlan) -> list[str]:
    """Say what is trained, line by line."""
    if LAYOUTS[plan.layout].trunk:
        return ["trunk:", "trained"]
    gates = "gates ○ start at 0" if plan.gated else "no gates"
    rank = "full rank" if plan.rank is None else f"rank {plan.rank}"
    return ["bridges:", f"trained, {'both ways ↔' if plan.both_ways else 'one way →'}", gates, rank]
