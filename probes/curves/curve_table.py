"""Hold the table of a curve, whose draws are for computing with and not for reading."""

from __future__ import annotations

from typing import Any

import pandas as pd

DRAWS = "draws"


class CurveTable(pd.DataFrame):
    """A DataFrame of curves that leaves the column draws out of CSV and HTML, where it would be most of each row.

    Slices, copies and concatenations are of this class too. Parquet files keep the column.
    """

    @property
    def _constructor(self) -> type[CurveTable]:
        return CurveTable

    def _repr_html_(self) -> str:
        return self._shown()._repr_html_()

    def to_html(self, *args: Any, **options: Any) -> Any:
        """Write the table without draws as HTML, as `DataFrame.to_html` does."""
        return self._shown().to_html(*args, **options)

    def to_csv(self, *args: Any, **options: Any) -> Any:
        """Write the table without draws as CSV, as `DataFrame.to_csv` does. ``columns=`` may ask for them."""
        shown = pd.DataFrame(self) if options.get("columns") is not None else self._shown()
        return shown.to_csv(*args, **options)

    def _shown(self) -> pd.DataFrame:
        return pd.DataFrame(self).drop(columns=DRAWS, errors="ignore")
