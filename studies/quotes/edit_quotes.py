"""Quote the study of editing: what each layout makes of each kind of source tokens, and the verdicts on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from ...probes.similarity.intervals import mean_interval
from .changing import Interval, what_would_change
from .markers import table
from .rounding import between, rounded, whole, with_interval

NOT_RUN = "The runs of this study are not done yet: `bridgework reproduce editing` makes them."
NO_ROWS = "No run is done yet."
COMMAND = "`bridgework reproduce editing`"
CLAIM = "Both kinds of source tokens edit better than either"
UNMEASURED = "not yet measured"
MISSING, EVERY, UNBRIDGED = "-", "all layouts", ""  # no layout: a run without bridges
WAYS = {  # run and source of a row, as the study names them
    ("own instructions", "semantic"): "semantic",
    ("own instructions", "spatial"): "spatial",
    ("own instructions", "both"): "both",
    ("others' instructions", "both"): "both (floor: trained with others' instructions)",
    ("no bridges", "spatial"): "spatial (floor: no bridges, so no instruction is read)",
}
SCORES = {
    "change": "change made",
    "stay_objects": "objects kept",
    "stay_pixels": "pixels kept",
    "success": "success",
    "score": "score",
}
COPY = (
    "Less loss is better; of all else more is. Each number is a mean over seeds. A model that copies its source has "
    "change made 0, objects kept 1, pixels kept 1, success 0 and score 0; the truth has 1 in all five."
)
LEAST = {
    "semantic": "loss below that with semantic tokens by",
    "spatial": "loss below that with spatial tokens by",
    "others' instructions": "loss below that with others' instructions by",
}
NEEDED = {
    "holds": "**In the mean over layouts an edit is better with both views of its source than with either**",
    "fails": "**In the mean over layouts an edit is not better with both views of its source than with either**",
    "undecided": "**Whether, in the mean over layouts, an edit is better with both views of its source is undecided**",
}


def numbers(results: Path) -> dict[str, str]:
    """Return every quotable number of the study by name; none while its runs are not done."""
    edits, differences, verdicts = _read(results)
    if edits.empty:
        return {}
    layouts = verdicts[verdicts["layout"] != EVERY]
    found = {
        "editing.runs": whole(len(edits)),
        "editing.seeds": whole(edits["seed"].nunique()),
        "editing.layouts": whole(len(layouts)),
        "editing.steps": whole(edits["steps"].max()),
    }
    found |= {f"editing.{verdict}": whole((layouts["verdict"] == verdict).sum()) for verdict in NEEDED}
    mine = differences[differences["layout"] == EVERY].set_index(["measure", "than"])
    for than in ("semantic", "spatial"):
        if gain := _interval(mine, "loss", than):
            found[f"editing.gain.{than}"] = rounded(gain[0])
            if not math.isnan(gain[1]):
                found[f"editing.gain.{than}.interval"] = between(*gain[1:])
    if objects := _interval(mine, "stay_objects", "spatial"):
        found |= {"editing.objects": rounded(objects[0]), "editing.objects.interval": between(*objects[1:])}
    if len(rows := _rows_of(edits, verdicts, EVERY, "both")):
        found["editing.score.both"] = rounded(rows["score"].mean())
    return found


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table of the study, by name."""
    return {
        "editing answer": lambda: answer(results),
        "editing": lambda: editing_table(results),
        "editing verdicts": lambda: verdicts_table(results),
    }


def editing_table(results: Path) -> str:
    """Return loss and scores of every layout with each kind of source tokens, of the floors, and of a copy in words."""
    edits, _, verdicts = _read(results)
    if edits.empty:
        return NO_ROWS
    rows = []
    for layout in (*verdicts["layout"], UNBRIDGED):
        for way in WAYS.values():
            found = _rows_of(edits, verdicts, layout, way)
            if len(found):
                cells = [layout or "none", way, _over_seeds(found["loss"])]
                rows.append([*cells, *(rounded(found[name].mean()) for name in SCORES), whole(len(found))])
    columns = ["layout", "source tokens", "test loss [95 % interval over seeds]", *SCORES.values(), "seeds"]
    return f"{table(columns, rows)}\n\n{COPY}"


def verdicts_table(results: Path) -> str:
    """Return what both kinds of source tokens gain over each, by layout, with the verdict and its reason."""
    edits, differences, verdicts = _read(results)
    if edits.empty:
        return NO_ROWS
    rows = []
    for row in verdicts.itertuples():
        mine = differences[differences["layout"] == row.layout].set_index(["measure", "than"])
        gains = [_difference(mine, "loss", than) for than in LEAST]
        scores = [_difference(mine, "score", than) for than in ("semantic", "spatial")]
        rows.append([str(row.layout), *gains, f"**{row.verdict}**", str(row.reason), *scores, whole(row.seeds)])
    scores = [f"score above that with {than} tokens by (decides nothing)" for than in ("semantic", "spatial")]
    return table(["layout, with both", *LEAST.values(), "verdict", "reason", *scores, "seeds"], rows)


def answer(results: Path) -> str:
    """Return in sentences whether an edit needs both views of its source, by what numbers, and in which layouts."""
    edits, differences, verdicts = _read(results)
    if edits.empty:
        return NOT_RUN
    over_all = verdicts.set_index("layout").loc[EVERY]
    first = f"{NEEDED[over_all['verdict']]}: {over_all['reason']}"
    mine = differences[differences["layout"] == EVERY].set_index(["measure", "than"])
    if len(mine):
        semantic, spatial = (_less_or_more(mine, than) for than in ("semantic", "spatial"))
        first += f". The loss with both is {semantic} than with semantic tokens and "
        first += f"{spatial} than with spatial ones, over {whole(over_all['seeds'])} seeds"
    said = [first, f"The claim that both are better than either {_by_layout(verdicts)}"]
    scores = {way: _rows_of(edits, verdicts, EVERY, way)["score"] for way in ("semantic", "spatial", "both")}
    if all(len(found) for found in scores.values()):
        each = ", ".join(f"{rounded(found.mean())} with {way}" for way, found in scores.items())
        said.append(f"The score, which decides nothing, is {each}; a copy of the source has 0 and the truth 1")
    return " ".join(f"{sentence}." for sentence in said)


def both_kinds(results: Path) -> tuple[str, str, str, str, str]:
    """Return the claim, what was measured of it over all layouts, the verdict, what would change it, the command."""
    edits, differences, verdicts = _read(results)
    mine = differences[differences["layout"] == EVERY].set_index(["measure", "than"])
    gains = [_interval(mine, "loss", than) for than in LEAST]
    if edits.empty or not all(gains):
        return CLAIM, "its runs are not done", UNMEASURED, what_would_change(UNMEASURED, (), "seeds"), COMMAND
    over_all = verdicts.set_index("layout").loc[EVERY]
    semantic, spatial = (_less_or_more(mine, than) for than in ("semantic", "spatial"))
    measured = f"on edits of scenes the loss with both is {semantic} than with semantic tokens and {spatial} than with "
    measured += f"spatial ones, in the mean over layouts ({whole(over_all['seeds'])} seeds); by layout it "
    decides = [gain for gain in gains if gain and not math.isnan(gain[1])]
    change = what_would_change(over_all["verdict"], decides, "seeds")
    return CLAIM, measured + _by_layout(verdicts), str(over_all["verdict"]), change, COMMAND


def said_by_layout(results: Path) -> dict[str, str]:
    """Return of each layout, and of their mean, what the study says in a few words; nothing while runs are missing."""
    _, _, verdicts = _read(results)
    return {
        str(row.layout): f"both better than either: {row.verdict}"
        + ("" if row.verdict == "holds" else f" ({row.reason.split(':')[0]})")
        for row in verdicts.itertuples()
    }


def _by_layout(verdicts: pd.DataFrame) -> str:
    """Return in which layouts the claim holds, fails or is undecided, and why."""
    found = verdicts[verdicts["layout"] != EVERY]
    short = found["reason"].str.split(":").str[0]
    groups = found["layout"].groupby([found["verdict"], short], sort=False).agg(", ".join)
    words = {"holds": "holds in", "fails": "fails in", "undecided": "is undecided in"}
    return "; ".join(
        f"{words[verdict]} {layouts}" + ("" if verdict == "holds" else f" ({reason})")
        for verdict in words
        for (of, reason), layouts in groups.items()
        if of == verdict
    )


def _rows_of(edits: pd.DataFrame, verdicts: pd.DataFrame, layout: str, way: str) -> pd.DataFrame:
    """Return the runs of a layout and a way, one row a seed; of all layouts their means at seeds that have all."""
    run, source = next(key for key, name in WAYS.items() if name == way)
    own = edits[(edits["run"] == run) & (edits["source"] == source)]
    if layout != EVERY:
        return own[own["layout"] == layout]
    by_seed = own.groupby("seed")[["loss", *SCORES]]
    return by_seed.mean()[by_seed.size() == len(verdicts) - 1]


def _over_seeds(values: pd.Series) -> str:
    mean, low, high = map(float, mean_interval(values.to_numpy()))
    return with_interval(mean, low, high)


def _interval(mine: pd.DataFrame, measure: str, than: str) -> Interval | None:
    if (measure, than) not in mine.index:
        return None
    row = mine.loc[(measure, than)]
    return float(row["difference"]), float(row["low"]), float(row["high"])


def _difference(mine: pd.DataFrame, measure: str, than: str) -> str:
    found = _interval(mine, measure, than)
    return with_interval(*found) if found else MISSING


def _less_or_more(mine: pd.DataFrame, than: str) -> str:
    """Return by how much the loss with both is less, or more, without a sign."""
    found = _interval(mine, "loss", than)
    if not found:
        return f"{MISSING} less"
    gain, low, high = found
    return f"{with_interval(gain, low, high)} less" if gain >= 0 else f"{with_interval(-gain, -high, -low)} more"


def _read(results: Path) -> Iterator[pd.DataFrame]:
    """Yield the runs, the differences and the verdicts; tables without rows while they are not committed."""
    for name, columns in (
        ("edits", ("layout", "source", "seed", "run", "loss", *SCORES)),
        ("differences", ("layout", "measure", "than", "seeds", "difference", "low", "high")),
        ("verdicts", ("layout", "seeds", "verdict", "reason")),
    ):
        path = results / "editing" / f"{name}.parquet"
        yield pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=list(columns))
