"""Quote what was trained on equal terms: the tables of both families, and every claim with its verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ...probes.similarity.intervals import mean_interval
from .changing import Interval
from .edit_quotes import EVERY, said_by_layout
from .markers import table
from .rounding import between, rounded, whole, with_interval

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "fails", "undecided", "not yet measured"
GAINS = {
    "loss": "fall of the loss of drawing",
    "answer_loss": "fall of the loss of answers",
    "accuracy": "gain in right answers",
    "worth": "gain in worth",
    "score": "gain in facts that hold",
    "loss_increase": "more loss",
}
ONE_PAIR = "undecided: one pair of experts is not run"
DEPTH = 12  # blocks of a trunk
TASKS = {"loss": "drawing", "accuracy": "answering"}
METRICS = {"mutual_knn": "mutual-kNN", "cka": "debiased CKA"}
COINCIDE, SPLIT, ARCH = "both tasks coincide", "tasks split at a depth", "rises then falls"
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
    """Hold a claim with what was measured of it, the verdict, and the numbers that decided."""

    paper: str
    claim: str
    measured: str
    verdict: str
    numbers: Sequence[Interval] = ()
    change: str = ""  # what would change the verdict, where numbers cannot say it


def numbers(results: Path) -> dict[str, str]:
    """Return the sizes of the study by name, as its runs have them, and what texts say of its layouts."""
    trunks, forks = _runs(results, "trunks"), _runs(results, "forks")
    keys = pd.read_parquet(results / "claims" / "runs.parquet", columns=["key"])["key"]
    sizes = forks["parameters"] / 1e6
    return {
        "claims.depth": whole(DEPTH),
        "claims.start_steps": whole(trunks["start"].iloc[0]),
        "claims.trunk_steps": whole(trunks["steps"].iloc[0]),
        "claims.runs": whole(keys.nunique()),
        "claims.forks.least": rounded(sizes.min()),
        "claims.forks.most": rounded(sizes.max()),
        "claims.forks.answers": whole(_forks_that_answer(trunks, forks)),
        "claims.facts.least": rounded(_read(results, "trunks")["score"].min()),
        "claims.facts.most": rounded(_read(results, "trunks")["score"].max()),
        "claims.facts.unbridged": rounded(_read(results, "bounds").set_index("layout")["score"]["unbridged"].iloc[0]),
        **_worths(results),
        **_links(results),
        **_rises(results),
    }


def _forks_that_answer(trunks: pd.DataFrame, forks: pd.DataFrame) -> int:
    """Return at how many forks right answers differ from those of `shared` at the same seeds, beyond noise."""
    shared = trunks[trunks["layout"] == "shared"].set_index("seed")["accuracy"]
    ends = [
        mean_interval((of.set_index("seed")["accuracy"] - shared).dropna().to_numpy())
        for _, of in forks.groupby("fork")
    ]
    return sum(bool(low > 0 or high < 0) for _, low, high in ends)


def _links(results: Path) -> dict[str, str]:
    """Return how much loss a broken bridge of thirteen costs: the worst one, and means of three groups."""
    links = _read(results, "links")["loss_increase"]
    groups = {"most": links.max(), "first": links[:3].mean(), "middle": links[3:10].mean(), "last": links[10:].mean()}
    return {f"claims.links.{name}": rounded(cost) for name, cost in groups.items()}


def _runs(results: Path, study: str) -> pd.DataFrame:
    """Return the runs of a part of the study: seed, what was run, and what was measured."""
    runs = pd.read_parquet(results / "claims" / "runs.parquet").query("study == @study")
    known = zip(runs["seed"], runs["about"], runs["measured"], strict=True)
    return pd.DataFrame([{"seed": seed, **json.loads(about), **json.loads(found)} for seed, about, found in known])


def _rises(results: Path) -> dict[str, str]:
    """Return the rank correlation of depth and alignment in the expert that reads captions, and in its twin."""
    shapes = _read(results, "shapes").query("shape == 'understanding rises' and metric == 'mutual_knn'")
    names = {"two experts": "own", "two experts, random weights": "twin"}
    return {
        f"shape.reader.knn.{names[row.model]}.spearman{end}": text
        for row in shapes.itertuples()
        for end, text in (("", rounded(row.value)), (".interval", between(row.low, row.high)))
    }


def _worths(results: Path) -> dict[str, str]:
    """Return what each layout of two towers is worth, for the first pair of experts and for the second."""
    layouts = _read(results, "layouts")
    first, second = layouts["pair"].unique()
    places = {first: "", second: "second."}
    found = {
        f"claims.worth.{places[row.pair]}{row.layout.replace(' ', '-')}": rounded(row.worth)
        for row in layouts.itertuples()
    }
    runs = _runs(results, "layouts").query("pair == @second and shuffled != True")
    losses = runs.pivot_table(index="seed", columns="layout", values="loss")
    mean, low, high = map(float, mean_interval((losses["dense"] - losses["soft"]).to_numpy()))
    return found | {"claims.second.soft": rounded(mean), "claims.second.soft.interval": between(low, high)}


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table, by name."""
    return {
        "equal towers": lambda: towers_table(results),
        "equal trunks": lambda: trunks_table(results),
        "mission": lambda: mission_table(results),
    }


def judged_claims(results: Path) -> Iterator[Judged]:
    """Yield every claim of the study with what was measured: differences, the best of sweeps, curves."""
    for _, rows in _verdicts(results).groupby("name", sort=False):
        first = rows.iloc[0]
        numbers = [tuple(row[1:]) for row in (rows[["difference", "low", "high"]] + first["margin"]).itertuples()]
        yield Judged(first["paper"], first["claim"], _measured(rows), first["verdict"], numbers)
    for row in _read(results, "best").itertuples():
        yield Judged(row.paper, row.claim, _best(row), row.verdict, [(row.behind, row.low, row.high)])
    shapes = _read(results, "shapes")
    for metric, title in METRICS.items():
        yield from _curves(shapes[shapes["metric"] == metric] if len(shapes) else shapes, title)
    yield _fork_at_split(results, shapes)


def _verdicts(results: Path) -> pd.DataFrame:
    """Return the verdicts on differences; those for which only one of two pairs of experts is run say so."""
    table = _read(results, "verdicts")
    if table.empty:
        return table
    begun = (table["verdict"] == UNMEASURED) & (table["seeds"] > 0)
    return table.assign(verdict=table["verdict"].where(~begun, ONE_PAIR))


def _best(row: Any) -> str:
    """Return where a sweep is best, in words."""
    if not row.seeds:
        return "its runs are not done"
    best, near = int(row.best), str(row.near).split()
    others = [value for value in near if value != str(best)]
    words = f"best at {best}" + (f" (within noise of it: {', '.join(others)})" if others else "")
    if best == row.published:
        return f"{words}, which is the published one; {row.seeds} seeds"
    behind = with_interval(row.behind, row.low, row.high)
    worse = "the loss is higher" if row.outcome.endswith("loss") else "right answers are fewer"
    return f"{words}; at {row.published}, as published, {worse} by {behind}; {row.seeds} seeds"


def _curves(shapes: pd.DataFrame, title: str) -> Iterator[Judged]:
    """Yield UniFork's claims on the curves of one trunk, by one metric."""
    once = f"In one trunk that is trained on both tasks, the curves of both tasks coincide ({title})"
    later = f"Trained further on one task each, they split at a depth ({title})"
    if shapes.empty:
        for claim in (once, later):
            yield Judged("UniFork", claim, "its runs are not done", UNMEASURED)
        return
    arched = shapes[shapes["shape"].str.endswith(ARCH) & shapes["model"].str.endswith("both tasks")]
    rises = [(str(row.shape).split()[0], (row.value, row.low, row.high)) for row in arched.itertuples(index=False)]
    measured = ", ".join(f"{task} {with_interval(*number)}" for task, number in rises)
    numbers = [number for _, number in rises]
    verdict = HOLDS if all(low > 0 for _, low, _ in numbers) else UNDECIDED
    claim = f"In one trunk that is trained on both tasks, both curves rise, then fall ({title})"
    yield Judged("UniFork", claim, f"peak above the nearer end, in one trained trunk: {measured}", verdict, numbers)
    before = shapes[shapes["shape"] == COINCIDE].iloc[0]
    yield Judged("UniFork", once, _depth(before), HOLDS if before["met"] else FAILS)
    after = shapes[shapes["shape"] == SPLIT]
    met = int(after["met"].sum())
    verdict = HOLDS if met == len(after) else UNDECIDED if met else FAILS
    found = "; ".join(dict.fromkeys(_depth(row) for _, row in after.iterrows()))
    yield Judged("UniFork", later, f"{found} ({met} of {len(after)} seeds)", verdict)


def _depth(row: pd.Series) -> str:
    if pd.isna(row["value"]):
        return "no depth of split"
    if row["high"] == 0:
        return "the curves differ from the embeddings on"
    return f"split at depth {with_interval(row['value'], row['low'], row['high'])}"


def _fork_at_split(results: Path, shapes: pd.DataFrame) -> Judged:
    """Judge whether Y is best where the tasks of the common trunk split, which is known before Y is trained."""
    claim = "The fork is best where the tasks' curves split, which is measured before any fork is trained (mutual-kNN)"
    best = _read(results, "best")
    forks = best[best["name"].str.startswith("best-fork") & (best["seeds"] > 0)] if len(best) else best
    if shapes.empty or forks.empty:
        return Judged("UniFork", claim, "its runs are not done", UNMEASURED)
    split = shapes[(shapes["shape"] == COINCIDE) & (shapes["metric"] == "mutual_knn")].iloc[0]
    where = ", ".join(f"{TASKS[row.outcome]} {int(row.best)}" for row in forks.itertuples())
    if pd.isna(split["value"]):
        return Judged("UniFork", claim, f"the tasks split nowhere; best forks: {where} of {DEPTH}", UNDECIDED)
    low, high = DEPTH * split["low"], DEPTH * split["high"]
    if high == 0:
        measured = f"the tasks differ from the embeddings on, which names no block; best forks: {where} of {DEPTH}"
        return Judged("UniFork", claim, measured, UNDECIDED, change="a trunk whose tasks split at a block")
    inside = [any(low <= int(value) <= high for value in str(row.near).split()) for row in forks.itertuples()]
    verdict = HOLDS if all(inside) else UNDECIDED if any(inside) else FAILS
    at = with_interval(DEPTH * split["value"], low, high)
    return Judged("UniFork", claim, f"split behind block {at}; best forks: {where} of {DEPTH}", verdict)


def _measured(rows: pd.DataFrame) -> str:
    """Return the differences of one claim in words."""
    done = rows[rows["seeds"] > 0]
    if done.empty:
        return "its runs are not done"
    found = []
    for outcome, each in done.fillna({"pair": ""}).groupby("outcome", sort=False):
        parts = [
            f"{with_interval(row.difference, row.low, row.high)} ({row.pair}{', ' * bool(row.pair)}{row.seeds} seeds)"
            for row in each.itertuples()
        ]
        found.append(f"{GAINS[outcome]} {', '.join(parts)}")
    margin = done["margin"].iloc[0]
    return "; ".join([*found, *([f"no less than -{rounded(margin)} was asked"] if margin else [])])


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
    columns = ["layout", "loss of drawing", "above that of shared, by seed", "facts that hold", "loss of answers"]
    columns += ["right answers", "parameters"]
    rows = [
        [
            row.layout, rounded(row.loss), with_interval(row.loss_above, row.loss_above_low, row.loss_above_high),
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
    verdicts = {str(name): _in_words(rows) for name, rows in _verdicts(results).groupby("name")}
    layouts, rows = _read(results, "layouts"), []
    editing = said_by_layout(results)
    for layout in ("shared", "Y", "X", "dense", "H", "double fusion", "last", "soft"):
        trunk = layout in ("shared", "Y", "X")
        drawing, answering = CLAIMS_OF.get(layout, ((), ()))
        if layout == "shared":
            cells = ["the reference of one trunk"] * 2
        elif trunk:
            cells = [_both(verdicts, names) for names in (drawing, answering)]
        else:
            of = [] if layouts.empty else layouts[layouts["layout"] == layout].itertuples()
            worths = [with_interval(row.worth, row.worth_low, row.worth_high) for row in of]
            worth = f"worth {' and '.join(worths)}" if worths else UNMEASURED
            cells = [
                "; ".join([worth, *(f"{SAID[name]}: {verdicts[name]}" for name in drawing)]),
                "as the frozen expert",
            ]
        rows.append([layout, *cells, "-" if trunk else editing.get(layout, UNMEASURED)])
    rows.append(["mean of these five", "-", "-", editing.get(EVERY, UNMEASURED)])
    return table(["layout", "drawing", "answering", "editing"], rows)


def _in_words(rows: pd.DataFrame) -> str:
    """Return the verdict on a difference, and whether pairs of experts lie on different sides of what was asked."""
    verdict, asked = str(rows["verdict"].iloc[0]), -rows["margin"]
    differ = rows["pair"].nunique() > 1 and (rows["low"] > asked).any() and (rows["high"] < asked).any()
    return f"{verdict}, since the pairs of experts differ" if differ else verdict


def _both(verdicts: dict[str, str], names: tuple[str, ...]) -> str:
    """Return the verdicts of "better than shared" at equal active and at equal total parameters."""
    active, total = (verdicts[name] for name in names)
    if active == total:
        return f"better than shared: {active}"
    return f"better than shared: {active} (equal active), {total} (equal total)"


def _read(results: Path, name: str) -> pd.DataFrame:
    path = results / "claims" / f"{name}.csv"
    if not path.is_file():
        return pd.DataFrame()
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
