"""Check tables that users may have read from a file or cut themselves: curves and layer maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..arguments import checked

LABELS = ("understanding layer", "generation layer")  # of the index and of the columns of a layer map


def check_table(name: str, table: Any, columns: Sequence[str], made_by: str, numbers: Sequence[str] = ()) -> None:
    """Raise an error where something is not the table that is expected.

    Parameters
    ----------
    name : str
        What messages call it.
    table : Any
        What was given.
    columns : sequence of str
        The columns that are read.
    made_by : str
        The function that makes such tables.
    numbers : sequence of str
        The columns, where they are there, whose values must be numbers. NaN is one, infinity is not.

    Raises
    ------
    TypeError
        It is no pandas DataFrame.
    ValueError
        A column is not there, there are no rows, or a value is no number.
    """
    checked(name, table, pd.DataFrame, remedy=f"make one with {made_by}")
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{name} has no column {missing[0]!r}: expected a table of {made_by}")
    if table.empty:
        raise ValueError(f"{name} has no rows: expected a table of {made_by}")
    for column in numbers:
        if column not in table:
            continue
        if not isinstance(table[column], pd.Series):
            raise ValueError(f"{name} has the column {column!r} twice: expected a table of {made_by}")
        if not holds_numbers(table[column]):
            raise ValueError(f"{name} holds no numbers in the column {column!r}: expected a table of {made_by}")


def check_layer_map(name: str, heat: Any) -> None:
    """Raise an error where something is no layer map of numbers, understanding layers by generation layers.

    Parameters
    ----------
    name : str
        What messages call it.
    heat : Any
        What was given. Cells may be NaN, where nothing was measured, but not all of them.

    Raises
    ------
    TypeError
        It is no pandas DataFrame.
    ValueError
        It has no cells, no value that is a finite number, or lies on its side.
    """
    checked(name, heat, pd.DataFrame, remedy="make one with similarity_map")
    if heat.empty:
        raise ValueError(f"{name} has no cells: expected a layer map, as similarity_map makes it")
    if heat.index.name == LABELS[1] or heat.columns.name == LABELS[0]:
        raise ValueError(
            f"{name} is transposed: expected understanding layers as rows and generation layers as columns; pass "
            f"{name}.T with the attrs of the map"
        )
    if wrong := [str(column) for column, values in heat.items() if not holds_numbers(values)]:
        raise ValueError(f"{name} holds no finite numbers in its column {wrong[0]!r}: expected the scores of layers")
    if heat.isna().all(axis=None):
        raise ValueError(f"{name} holds NaN alone: measure it on layers that are not constant")


def holds_numbers(values: pd.Series) -> bool:
    """Return whether values are real numbers, none of them infinite; what is missing may be None or NaN.

    Parameters
    ----------
    values : Series
        A column of a table.

    Returns
    -------
    bool
        False for texts, True and False, complex numbers, lists and infinity.
    """
    if values.dtype == object:
        values = values.dropna()
        real = all(isinstance(each, int | float | np.number) and not isinstance(each, bool) for each in values)
        values = values.astype(float) if real and not any(isinstance(each, complex) for each in values) else values
    kind = values.dtype
    if pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_numeric_dtype(kind) or kind.kind == "c":
        return False
    return not np.isinf(values.to_numpy(float, na_value=np.nan)).any()
