"""Compute what fusing two large experts takes, from their configs alone: the tables of docs/real.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..models.costs.estimate import cost_table, estimate_cost
from ..probes.files import write_csv

EXPERTS = ("qwen2.5-vl-7b", "wan2.2-ti2v-5b")
LAYOUTS = ("dense", "H", "double fusion")
FILES = {"bridges": "real_costs.csv", "lora": "real_costs_lora.csv"}
STEPS = 20_000


def estimate_real_costs(folder: Path) -> None:
    """Write real_costs.csv and real_costs_lora.csv, as two calls of `bridgework estimate` do.

    Batches of 8 stills of 512 pixels on each of 8 GPUs, with checkpointing. A file that is there is not computed again.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    """
    for trained, name in FILES.items():
        if (folder / name).exists():
            continue
        rows = [
            cost_table(
                estimate_cost(
                    *EXPERTS, layout=layout, trained=trained, batch=8, resolution=512, checkpointing=True, gpus=8
                ),
                STEPS,
            )
            for layout in LAYOUTS
        ]
        write_csv(folder / name, pd.concat(rows))
