"""Time a large debiased CKA map on a GPU, as a share of the rate of the card's matrix products.

python -m bridgework.benchmarks.similarity --device cuda     # adds this case; writes benchmarks/results/similarity.csv
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ..probes.similarity.scoring import similarity_map
from .support.floors import gram_flops, gram_map
from .support.inputs import machine, mm_rate, stack, wait
from .support.race import FLOOR, OURS, Contestant, Scores, race, whole

LAYERS, SAMPLES, DIMS = 48, 16_384, 4_096
MEMORY = 3e10  # bytes beside the features: their centred copies
ROWS = 1_024  # of all 96 Grams at a time in the floor: 6 GiB


def gpu_case(rounds: int, layers: int = LAYERS, samples: int = SAMPLES, dims: int = DIMS) -> pd.DataFrame:
    """Time the map of 48 x 48 layers of 16,384 x 4,096 features on the card, with TF32 off.

    The deviation is from the CPU, which scores the first, the middle and the last layer of each side. The rate counts
    the operations of whole Grams and their inner products, though symmetry saves half of them.

    Parameters
    ----------
    rounds : int
        How many rounds, of which the best counts.
    layers, samples, dims : int
        Size of each side.

    Returns
    -------
    DataFrame
        As `support.race.race`.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    on_card = [stack(layers, samples, dims, side, device="cuda") for side in (0, 1)]

    def run() -> Scores:
        return whole(similarity_map(on_card[0], on_card[1], "cka", memory=MEMORY).to_numpy())

    def least() -> Scores:
        gram_map(*on_card, rows=ROWS)
        return {}

    contestants = [Contestant(OURS, run), Contestant(f"{FLOOR}: Grams and their inner products", least)]
    table = race("cka map on a GPU", contestants, rounds, machine("cuda"), lambda: wait("cuda"))
    some = sorted({0, layers // 2, layers - 1})
    scores = similarity_map(on_card[0], on_card[1], "cka", memory=MEMORY).to_numpy()
    x, y = (side[some].cpu() for side in on_card)
    apart = np.abs(scores[np.ix_(some, some)] - similarity_map(x, y, "cka").to_numpy()).max()
    rate, flops = mm_rate(8192, "cuda"), gram_flops(layers, layers, samples, (dims, dims))
    table["note"] = [
        f"{flops / seconds / 1e12:.1f} TFLOP/s, {flops / seconds / rate:.0%} of torch.mm ({rate / 1e12:.1f})"
        for seconds in table["seconds"]
    ]
    table.loc[table["who"] == OURS, "deviation"] = apart
    return table
