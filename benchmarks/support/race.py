"""Time contestants fairly: they take turns, the best of several rounds counts, and every score is checked."""

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
    """Hold one contestant.

    Attributes
    ----------
    who : str
        Its name. Ours is `bridgework`, a floor's name starts with `floor`, and `NumPy reference` has the true scores.
    run : callable
        Returns the scores by pair of layers, or nothing to check.
    scale : float
        By what its seconds are multiplied, where it scores a part of the map.
    note : str
        What the table says about it.
    """

    who: str
    run: Callable[[], Scores]
    scale: float = 1.0
    note: str = ""


def whole(scores: Array) -> Scores:
    """Return the scores of a whole layer map by pair."""
    return {(i, j): float(value) for (i, j), value in np.ndenumerate(np.asarray(scores))}


def some(pairs: Pairs, function: Callable[[int, int], float]) -> Callable[[], Scores]:
    """Build a contestant's run that scores these pairs one by one."""
    return lambda: {pair: function(*pair) for pair in pairs}


def deviation(scores: Scores, reference: Scores) -> float:
    """Return the largest absolute difference over the pairs that both have; NaN where they share none."""
    shared = [abs(scores[pair] - reference[pair]) for pair in scores if pair in reference]
    return float(np.max(shared)) if shared else math.nan


def race(
    case: str, contestants: Sequence[Contestant], rounds: int, device: str, clock: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """Time contestants and check their scores.

    Parameters
    ----------
    case : str
        What is computed.
    contestants : sequence of Contestant
        They take turns in this order.
    rounds : int
        How many rounds, of which the best counts.
    device : str
        What the table says about the machine.
    clock : callable
        Called before every reading of the time.

    Returns
    -------
    DataFrame
        One row per contestant with `COLUMNS`. `ratio to floor` and `speedup of ours` are quotients of the best times,
        NaN without a floor or without ours.
    """
    best = {contestant.who: math.inf for contestant in contestants}
    scores: dict[str, Scores] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for contestant in contestants:
            if contestant.who in failed:
                continue
            clock()
            start = time.perf_counter()
            try:
                scores[contestant.who] = contestant.run()
            except Exception as raised:  # a peer's failure is a result, not the end of the race
                failed[contestant.who], best[contestant.who] = (
                    f"{type(raised).__name__}: {raised}".splitlines()[0],
                    math.nan,
                )
                continue
            clock()
            best[contestant.who] = min(best[contestant.who], (time.perf_counter() - start) * contestant.scale)
    floor = next((best[contestant.who] for contestant in contestants if contestant.who.startswith(FLOOR)), math.nan)
    rows = [
        {
            "case": case,
            "who": contestant.who,
            "seconds": best[contestant.who],
            "ratio to floor": best[contestant.who] / floor,
            "speedup of ours": best[contestant.who] / best.get(OURS, math.nan),
            "deviation": deviation(scores.get(contestant.who, {}), scores.get(TRUTH, {})),
            "note": failed.get(contestant.who, contestant.note),
            "device": device,
        }
        for contestant in contestants
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown(table: pd.DataFrame) -> str:
    """Write the table in Markdown, with three figures, and dashes for what does not apply."""

    def shown(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        if math.isnan(value):
            return "-"
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"

    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in table.itertuples(index=False, name=None)]
    return "\n".join(lines)
