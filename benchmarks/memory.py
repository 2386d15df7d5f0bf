"""Compare the memory that `estimate_cost` computes with what a training step allocates, on our own experts.

    python -m bridgework.benchmarks.memory     # some minutes on one core; writes benchmarks/results/memory.csv

Planned is what `models/costs/estimate.py` computes from the experts' configurations. Measured is the same step run by
`FusedModel` and the optimizers of `train`: the weights and optimizer states that it holds, plus the most that torch's
allocator provides during a step, by its profiler. Resident memory would not measure this: it includes Python, code and
what the allocator keeps in reserve.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ..models.costs.estimate import estimate_cost
from ..models.costs.step_costs import held_bytes, peak_bytes
from ..models.experts.opening import open_expert
from ..models.fusion.fused_model import FusedModel
from ..models.towers.checkpointing import checkpoint_blocks
from ..models.training.optimizers import build_optimizers
from ..models.training.scene_batches import dit_batch
from ..probes.plans.layouts import lay_out
from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
OURS, SMOL = ("scenes-vlm", "scenes-dit"), ("smollm2-135m", "emoji-dit")
RUNS: list[tuple[tuple[str, str], dict[str, Any]]] = [
    (OURS, {"layout": "H", "batch": 32}),
    (OURS, {"layout": "dense", "batch": 32}),
    (OURS, {"layout": "double fusion", "batch": 32}),
    (OURS, {"layout": "last", "batch": 32}),
    (OURS, {"layout": "H", "batch": 32, "precision": "mixed"}),
    (OURS, {"layout": "H", "batch": 32, "trained": "lora"}),
    (OURS, {"layout": "H", "batch": 32, "trained": "all"}),
    (OURS, {"layout": "H", "batch": 32, "trained": "all", "precision": "mixed"}),
    (OURS, {"layout": "H", "batch": 128, "trained": "all", "checkpointing": True}),
    (SMOL, {"layout": "H", "batch": 16}),
    (SMOL, {"layout": "double fusion", "batch": 16, "checkpointing": True}),
]


def measure(
    understanding: str,
    generation: str,
    layout: str,
    batch: int,
    trained: str = "bridges",
    precision: str = "float32",
    checkpointing: bool = False,
) -> tuple[int, int]:
    """Measure a training step on scenes.

    Parameters
    ----------
    understanding, generation : str
        The experts.
    layout : str
        The layout of bridges.
    batch : int
        The batch size.
    trained, precision : str
        What is trained, and "float32" or "mixed".
    checkpointing : bool
        Whether activations are recomputed in the backward pass.

    Returns
    -------
    peak : int
        Peak bytes.
    tokens : int
        Tokens of the longest caption.
    """
    torch.manual_seed(0)
    experts: tuple[Any, Any] = open_expert(understanding), open_expert(generation)
    depths = len(experts[0].blocks), len(experts[1].blocks)
    fused = FusedModel(*experts, lay_out(layout, *depths)).adapt(trained)
    if checkpointing:
        for expert in experts:
            checkpoint_blocks(expert.model)
    fused.train()
    scenes = dit_batch(0, 0, size=batch)
    named = [(name, p) for name, p in fused.trained().named_parameters() if p.requires_grad]
    optimizers = build_optimizers(named, 1e-4, 1e-4, lambda name: 1.0, together=False)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
            loss = fused.loss(scenes)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()

    tokens: list[int] = []
    handle = fused.understanding.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    step()
    handle.remove()
    moved = peak_bytes(step, torch.device("cpu"))
    states = [v for o in optimizers for state in o.state.values() for v in state.values() if torch.is_tensor(v)]
    return held_bytes([*fused.parameters(), *fused.buffers(), *states]) + moved, max(tokens)


def main() -> None:
    """Write and print the table."""
    torch.set_num_threads(1)
    rows = []
    for experts, options in tqdm(RUNS, desc="memory"):
        measured, tokens = measure(*experts, **options)
        start = time.perf_counter()
        settings: dict[str, Any] = {"precision": "float32", "tokens": tokens} | options
        planned = estimate_cost(*experts, **settings).peak
        row = {"understanding": experts[0], "generation": experts[1], "trained": "bridges", "precision": "float32"}
        row |= {"checkpointing": False} | options | {"tokens": tokens}
        row |= {"measured_mb": round(measured / 1e6, 1), "planned_mb": round(planned / 1e6, 1)}
        rows.append(row | {"quotient": round(planned / measured, 3), "seconds": round(time.perf_counter() - start, 1)})
    table = pd.DataFrame(rows).assign(machine=machine())
    table.to_csv(RESULTS / "memory.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
