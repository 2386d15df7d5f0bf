"""Rows of an editing study that nobody ran, with known differences between its kinds of source tokens."""

from __future__ import annotations

import pandas as pd

from bridgework.studies.editing import edit_runs
from bridgework.studies.editing.edit_runs import EditCell
from bridgework.studies.editing.edit_testbed import FLOOR, LAYOUTS


def edit_rows(gain: float, floor: float, seeds: int = 3) -> pd.DataFrame:
    """Rows in which both costs less than semantic by `gain` and than spatial by .3, and the floor costs `floor`."""
    rows = []
    for seed in range(seeds):
        noise = 0.001 * (seed - 1)
        for layout in LAYOUTS:
            losses = {"both": 0.5 + noise, "semantic": 0.5 + gain + 2 * noise, "spatial": 0.8}
            rows += [EditCell(layout, source, seed)._asdict() | {"loss": loss} for source, loss in losses.items()]
            rows.append(EditCell(layout, "both", seed, FLOOR)._asdict() | {"loss": floor})
    return pd.DataFrame(rows).assign(**dict.fromkeys((*edit_runs.SCORES, "score"), 0.0))
