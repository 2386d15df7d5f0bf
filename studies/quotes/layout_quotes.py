"""Quote the layouts that were trained on equal terms: the tables of both families, and the verdict on each layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .markers import table
from .rounding import rounded, whole, with_interval

NOT_RUN, UNMEASURED = "-", "not yet measured"
HIGHER = {
    "loss": "loss of drawing lower by",
    "answer_loss": "loss of answers lower by",
    "worth": "worth higher by",
    "score": "share of facts higher by",
}
# Of each layout, the claims on it: for drawing and for answering.
CLAIMS_OF = {
    "Y": (("Y-active-drawing", "Y-total-drawing"), ("Y-active-answering", "Y-total-answering")),
    "X": (("X-active-drawing", "X-total-drawing"), ("X-active-answering", "X-total-answering")),
    "H": (("H-as-dense",), ()),
    "double fusion": (("double-last",), ()),
}
SAID = {
    "H-as-dense": "no less than dense",
    "double-last": "more than last",
}


class Judged(NamedTuple):
    """Hold a claim with what was measured of it and the verdict."""

    paper: str
    claim: str
    measured: str
    verdict: str


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table, by name."""
    return {
        "equal towers": lambda: towers_table(results),
        "equal trunks": lambda: trunks_table(results),
        "mission": lambda: mission_table(results),
    }


def judged_claims(results: Path) -> Iterator[Judged]:
    """Yield every claim of the study with its differences, by pair of experts."""
    for _, rows in _read(results, "verdicts").groupby("name", sort=False):
        first = rows.iloc[0]
        yield Judged(first["paper"], first["claim"], _measured(rows), first["verdict"])


def _measured(rows: pd.DataFrame) -> str:
    """Return the differences of one claim in words."""
    done = rows[rows["seeds"] > 0]
    if done.empty:
        return "its runs are not done"
    parts = [
        f"{with_interval(row.difference, row.low, row.high)} ({f'{row.pair}, ' if row.pair else ''}{row.seeds} seeds)"
        for row in done.fillna({"pair": ""}).itertuples()
    ]
    first = done.iloc[0]
    asked = f"; no less than -{rounded(first['margin'])} was asked" if first["margin"] else ""
    return f"{HIGHER[first['outcome']]} {', '.join(parts)}{asked}"


def towers_table(results: Path) -> str:
    """Return the table of two towers: worth, score, floor, and what a step costs."""
    layouts = _read(results, "layouts")
    if layouts.empty:
        return "No run is done yet."
    columns = ["experts", "layout", "worth", "facts that hold", "loss", "floor", "parameters", "sharing"]
    rows = [
        [
            row.pair, row.layout, with_interval(row.worth, row.worth_low, row.worth_high),
            with_interval(row.score, row.score_low, row.score_high), rounded(row.loss), rounded(row.floor),
            whole(row.parameters), rounded(row.sharing), rounded(row.step_flops / 1e9), rounded(row.time),
            whole(row.seeds),
        ]
        for row in layouts.itertuples()
    ]  # fmt: skip
    return table([*columns, "GFLOP a step", "time of a step", "seeds"], rows)


def trunks_table(results: Path) -> str:
    """Return the table of one trunk: both tasks, and what a step costs."""
    trunks = _read(results, "trunks")
    if trunks.empty:
        return "No run is done yet."
    columns = ["layout", "loss of drawing", "facts that hold", "loss of answers", "right answers", "parameters"]
    rows = [
        [
            row.layout, with_interval(row.loss, row.loss_low, row.loss_high),
            with_interval(row.score, row.score_low, row.score_high),
            with_interval(row.answer_loss, row.answer_loss_low, row.answer_loss_high),
            with_interval(row.accuracy, row.accuracy_low, row.accuracy_high), whole(row.parameters),
            rounded(row.sharing), rounded(row.step_flops / 1e9), rounded(row.time), whole(row.seeds),
        ]
        for row in trunks.itertuples()
    ]  # fmt: skip
    return table([*columns, "sharing", "GFLOP a step", "time of a step", "seeds"], rows)


def mission_table(results: Path) -> str:
    """Return each layout with its verdict for each task."""
    verdicts = _read(results, "verdicts").drop_duplicates("name").set_index("name")["verdict"]
    layouts, rows = _read(results, "layouts"), []
    worths = layouts.drop_duplicates("layout").set_index("layout") if len(layouts) else layouts
    editing = _editing(results)
    for layout in ("shared", "Y", "X", "dense", "H", "double fusion", "last", "soft"):
        trunk = layout in ("shared", "Y", "X")
        drawing, answering = CLAIMS_OF.get(layout, ((), ()))
        if layout == "shared":
            cells = ["the reference of one trunk"] * 2
        elif trunk:
            cells = [_both(verdicts, names) for names in (drawing, answering)]
        else:
            worth = UNMEASURED
            if layout in worths.index:
                row = worths.loc[layout]
                worth = f"worth {with_interval(row['worth'], row['worth_low'], row['worth_high'])}"
            cells = [
                "; ".join([worth, *(f"{SAID[name]}: {verdicts[name]}" for name in drawing)]),
                "as the frozen expert",
            ]
        rows.append([layout, *cells, "-" if trunk else editing.get(layout, UNMEASURED)])
    return table(["layout", "drawing", "answering", "editing"], rows)


def _both(verdicts: pd.Series, names: tuple[str, ...]) -> str:
    """Return the verdicts of "better than shared" at equal active and at equal total parameters."""
    active, total = (verdicts[name] for name in names)
    if active == total:
        return f"better than shared: {active}"
    return f"better than shared: {active} (equal active), {total} (equal total)"


def _editing(results: Path) -> dict[str, str]:
    """Return what each layout reaches in editing, as far as the study of editing has it."""
    return {}


def _read(results: Path, name: str) -> pd.DataFrame:
    path = results / "claims" / f"{name}.csv"
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
