"""Say in one line what a plan costs, whatever an estimate returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def describe_cost(cost: Any) -> str:
    """Say a cost in one line.

    Parameters
    ----------
    cost : Any
        A text, a number, a mapping or table of one row with numbers by name, or what `estimate_cost` returns.

    Returns
    -------
    str
        The line.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> describe_cost({"trained parameters": 1_200_000, "GPU hours": 2.5})
    '1,200,000 trained parameters, 2.5 GPU hours'
    """
    if isinstance(cost, str):
        return cost
    if isinstance(cost, pd.DataFrame) and len(cost) == 1:
        cost = cost.iloc[0].to_dict()
    if all(hasattr(cost, name) for name in ("trained", "peak", "operations")):
        cost = {"trained parameters": cost.trained, "GB": cost.peak / 1e9, "TFLOP a step": cost.operations / 1e12}
    if isinstance(cost, Mapping) and cost:
        return ", ".join(f"{_number(value)} {name}" for name, value in cost.items())
    if isinstance(cost, int | float | np.number) and not isinstance(cost, bool):
        return _number(cost)
    raise TypeError(f"explorer: cost(plan) must return a text, a number or numbers by name, got {type(cost).__name__}")


def _number(value: Any) -> str:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
