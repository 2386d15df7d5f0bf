"""What a map takes beside its features stays within the memory that it is allowed."""

from __future__ import annotations

import tracemalloc

import pytest
import torch

from bridgework.models.costs.step_costs import peak_bytes
from bridgework.probes.metrics.metric import MEMORY
from bridgework.probes.metrics.named_metrics import METRICS

BOUND = 6_000_000
SHAPES = {"many samples": (3000, 32), "many dims": (500, 200)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.bounded])
def test_a_map_keeps_to_its_memory(metric, shape):
    samples, dims = shape
    generator = torch.Generator().manual_seed(0)
    xs, ys = (list(torch.randn(3, samples, dims, generator=generator)) for _ in range(2))
    scores = METRICS[metric].scores
    free = scores(xs, ys, 5, MEMORY)
    of_numpy = 0

    def run() -> None:
        nonlocal of_numpy
        tracemalloc.start()
        scores(xs, ys, 5, BOUND)
        of_numpy = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    of_torch = peak_bytes(run, torch.device("cpu"))
    assert of_torch <= BOUND + 3 * 8 * samples * dims
    assert of_numpy <= BOUND
    torch.testing.assert_close(torch.tensor(scores(xs, ys, 5, BOUND)), torch.tensor(free), rtol=0, atol=1e-6)
