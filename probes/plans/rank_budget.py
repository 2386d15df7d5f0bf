"""Meet a budget of trainable parameters through the rank of the bridges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


def rank_for(parameters: int, count: Callable[[int], int]) -> int:
    """Return the largest rank whose bridges have at most so many trainable parameters.

    Parameters
    ----------
    parameters : int
        The budget of trainable parameters.
    count : callable
        A function that returns the trainable parameters of the bridges at a rank.

    Returns
    -------
    int
        The rank, 1 or more.

    Raises
    ------
    ValueError
        If rank 1 has more parameters, or if the count does not grow with the rank.

    Examples
    --------
    >>> rank_for(100, lambda rank: 3 * rank + 7)
    31
    """
    count = cache(count)  # a call may build a model
    if (least := count(1)) > parameters:
        raise ValueError(f"{parameters} trainable parameters are too few: bridges of rank 1 have {least}")
    if (step := count(2) - least) > 0:
        linear = 1 + (parameters - least) // step  # right where every rank adds as many parameters
        if count(linear) <= parameters < count(linear + 1):
            return linear
    low, high = 1, 2
    while (found := count(high)) <= parameters:
        if found <= count(low):
            raise ValueError(f"the parameters do not grow with the rank: {found} at rank {low} and at {high}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return low
