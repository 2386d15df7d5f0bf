"""Read the evidence of a rule from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import check_names, checked
from ..curves.divergence_depth import Divergence
from ..file_formats import without_format
from ..files import read_parquet
from .rules import MAP_DEPTHS, Evidence


def read_evidence(path: str | os.PathLike[str]) -> Evidence:
    """Read evidence from a file.

    Parameters
    ----------
    path : str or path
        A table as CSV, with its `attrs` in a JSON file of the same name beside it if there are any; a table as Parquet,
        which holds both; or a `Divergence`, as the JSON of `dataclasses.asdict`. A trained model's cost belongs into
        `attrs` as {"cost": {"steps": 600, "seconds": 1200}}, for a plain table as well.

    Returns
    -------
    DataFrame or Divergence
        The evidence, with its `attrs`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind.
    """
    path = Path(checked("path", path, str | os.PathLike))
    if not path.is_file():
        raise FileNotFoundError(f"no evidence {path}: expected a CSV, Parquet or JSON file")
    try:
        if path.suffix == ".json":
            return _divergence(json.loads(path.read_text(encoding="utf-8")))
        if path.suffix == ".parquet":
            table = read_parquet(path)
            table.attrs = _checked_attrs(table.attrs)
            return table
        table = pd.read_csv(path)
        if (beside := path.with_suffix(".json")).is_file():
            found = _checked_attrs(json.loads(beside.read_text(encoding="utf-8")))
            table.attrs = without_format("layer map", beside, found)[1]
    except Exception as error:  # readers of tables raise anything on damaged files
        said = " ".join(str(error).split())
        raise ValueError(f"{path} holds no evidence, neither a table nor a divergence: {said}") from None
    if table.columns[0] != "understanding layer":
        return table
    attrs, table = table.attrs, table.set_index("understanding layer")
    described = tuple(
        size if attrs.get(name) is None else len(attrs[name]) for name, size in zip(MAP_DEPTHS, table.shape)
    )
    if described != table.shape:
        raise ValueError(
            f"{path.with_suffix('.json')} describes a layer map of {described[0]} x {described[1]} layers, {path} "
            f"holds {table.shape[0]} x {table.shape[1]}: put back the JSON that was written with it"
        )
    table.attrs = attrs
    return table


def _checked_attrs(found: Any) -> dict[str, Any]:
    """Return what lies beside a table, if a rule can read it."""
    checked("the JSON beside the table", found, dict, remedy="what similarity_map and others put into attrs")
    checked("metric", found.get("metric"), str | None)
    for name in ("k", "samples"):
        checked(name, found.get(name), int | None, least=1)
    for name in MAP_DEPTHS:
        checked(name, found.get(name), Sequence[float] | None, least=0, most=1)
    for name in ("x", "y"):
        checked(name, found.get(name), dict | None)
    return found


def _divergence(found: Any) -> Divergence:
    checked("the file", found, dict, remedy="the fields of a divergence")
    names = [each.name for each in fields(Divergence)]
    check_names("field of a divergence", found, names)
    if missing := [name for name in names[:5] if name not in found]:
        raise ValueError(f"{missing[0]} is missing")
    return Divergence(**found)
