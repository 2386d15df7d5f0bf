"""What a metric says about itself is true: whether it is a distance, and whether it sees which samples are paired."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.metrics import METRICS


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = np.random.default_rng(0)
    return torch.from_numpy(g.standard_normal((40, 6)) + 1), torch.from_numpy(g.standard_normal((40, 6)) - 1)


def score(metric: str, x: torch.Tensor, y: torch.Tensor) -> float:
    return METRICS[metric].scores([x], [y], 5)[0, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_described_in_one_sentence(metric):
    about = METRICS[metric].about
    assert about[0].isupper() and about.endswith(".")
    assert ". " not in about and len(about) <= 120


@pytest.mark.parametrize("metric", METRICS)
def test_a_distance_is_less_where_sides_are_more_alike(metric):
    x, y = pair()
    assert (score(metric, x, x) < score(metric, x, y)) == METRICS[metric].is_distance


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_that_see_pairs_change_when_samples_are_permuted(metric):
    x, y = pair()
    y = x + 0.1 * y
    moved = score(metric, x, y[torch.from_numpy(np.random.default_rng(1).permutation(40))])
    assert (abs(moved - score(metric, x, y)) > 1e-3) == METRICS[metric].sees_pairs
