"""A fair race: contestants take turns, the best of several rounds counts, and every score is checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
Pairs = Sequence[tuple[int, int]]  # (x layer, y layer)
Scores = dict[tuple[int, int], float]

OURS, FLOOR, TRUTH = "bridgework", "floor", "NumPy reference"
COLUMNS = ["case", "who", "seconds", "ratio to floor", "speedup of ours", "deviation", "note", "device"]


class Contestant(NamedTuple):
    """run(): the scores by pair of layers, or nothing to check; its seconds are multiplied by `scale`, as `note` says.

    Ours is `bridgework`, a floor's name starts with `floor`, and the others are measured by the `NumPy reference`.
    """

    who: str
    run: Callable[[], Scores]
    scale: float = 1.0
    note: str = ""


def whole(scores: Array) -> Scores:
    """The scores of a whole layer map by pair."""
    return {(i, j): float(value) for (i, j), value in np.ndenumerate(np.asarray(scores))}


def some(pairs: Pairs, function: Callable[[int, int], float]) -> Callable[[], Scores]:
    """A contestant's run that scores these pairs one by one."""
    return lambda: {pair: function(*pair) for pair in pairs}


def deviation(scores: Scores, reference: Scores) -> float:
    """The largest absolute difference over the pairs that both hold; NaN where they share none."""
    shared = [abs(scores[pair] - reference[pair]) for pair in scores if pair in reference]
    return float(np.max(shared)) if shared else math.nan


def race(
    case: str, contestants: Sequence[Contestant], rounds: int, device: str, clock: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """One row for each contestant, in the order given; clock() is called before every reading of the time.

    `ratio to floor` and `speedup of ours` are quotients of the best times; NaN without a floor, or without ours.
    """
    best = {one.who: math.inf for one in contestants}
    scores: dict[str, Scores] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for one in contestants:
            if one.who in failed:
                continue
            clock()
            start = time.perf_counter()
            try:
                scores[one.who] = one.run()
            except Exception as raised:  # a peer's failure is a result, not the end of the race
                failed[one.who], best[one.who] = f"{type(raised).__name__}: {raised}".splitlines()[0], math.nan
                continue
            clock()
            best[one.who] = min(best[one.who], (time.perf_counter() - start) * one.scale)
    floor = next((best[one.who] for one in contestants if one.who.startswith(FLOOR)), math.nan)
    rows = [
        {
            "case": case,
            "who": one.who,
            "seconds": best[one.who],
            "ratio to floor": best[one.who] / floor,
            "speedup of ours": best[one.who] / best.get(OURS, math.nan),
            "deviation": deviation(scores.get(one.who, {}), scores.get(TRUTH, {})),
            "note": failed.get(one.who, one.note),
            "device": device,
        }
        for one in contestants
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown(table: pd.DataFrame) -> str:
    """The table for reading: three figures, dashes for what does not apply."""

    def shown(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        if math.isnan(value):
            return "-"
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"

    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in table.itertuples(index=False, name=None)]
    return "\n".join(lines)
