"""Say what would change a verdict: how many more seeds or samples, or other models."""

from __future__ import annotations

import math
from collections.abc import Sequence

Interval = tuple[float, float, float]  # a number with the ends of its 95 % interval

SETTLED = "other experts, captions or budgets"
FAR = 100  # times as many: beyond it a difference is no more than 0


def what_would_change(verdict: str, numbers: Sequence[Interval], unit: str) -> str:
    """Return what would change a verdict, in words.

    Parameters
    ----------
    verdict : str
        "holds", "fails", "undecided", or what stands where nothing was measured.
    numbers : sequence of (value, low, high)
        The numbers that decide; each would have to keep away from 0.
    unit : str
        What the intervals are over, in the plural, such as "seeds".

    Returns
    -------
    str
        Of an undecided claim how many times as many of `unit` would bring the widest interval away from 0, if its
        number stayed: an interval narrows by the root of their number.

    Examples
    --------
    >>> what_would_change("undecided", [(0.02, -0.02, 0.06)], "seeds")
    'about 4 times as many seeds, if the number stays'
    """
    if verdict in ("holds", "fails"):
        return SETTLED
    if verdict != "undecided" or not numbers:
        return "its runs"
    times = max(((high - low) / 2 / abs(value)) ** 2 if value else math.inf for value, low, high in numbers)
    if times <= 1:
        return "numbers that agree: each is away from 0, on different sides"
    if times > FAR:
        return f"more {unit} would hardly help: over {FAR} times as many would be needed"
    return f"about {math.ceil(times)} times as many {unit}, if the number stays"
