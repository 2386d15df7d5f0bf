"""Draw the inputs that metrics are checked on: pairs of layers as models have them, and as they break naive code.

A regime is a function of a generator and the dims of the two sides. It returns x and y, (sample, dim) tensors, float32
unless its name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .reference import SAME_DIMS

Pair = tuple[torch.Tensor, torch.Tensor]
Regime = Callable[[np.random.Generator, tuple[int, int]], Pair]

SAMPLES, SHARED = 256, 8


def normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Draw standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def independent(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Draw unrelated sides: at the chance level a small absolute error is a large relative one."""
    return normal(rng, SAMPLES, dims[0]), normal(rng, SAMPLES, dims[1])


def related(rng: np.random.Generator, dims: tuple[int, int], samples: int = SAMPLES) -> Pair:
    """Draw eight common directions under as much noise."""
    shared = normal(rng, samples, SHARED)
    x, y = (shared @ normal(rng, SHARED, dim) / SHARED**0.5 + normal(rng, samples, dim) for dim in dims)
    return x, y


def common_offset(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Add a mean of 30 to every feature, as biases do."""
    x, y = related(rng, dims)
    return x + 30, y + 30


def massive_dimension(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Make one feature a thousand times as large, as in the residual streams of trained transformers."""
    x, y = related(rng, dims)
    x[:, 3] *= 1000
    y[:, 5] *= 1000
    return x, y


def massive_sample(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Make one sample a hundred times as large, as a sink token is."""
    x, y = related(rng, dims)
    x[7] *= 100
    y[7] *= 100
    return x, y


def shared_pattern(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Add a pattern over the dims that all samples share, ten times as large as their differences."""
    x, y = related(rng, dims)
    return x + 10 * normal(rng, dims[0]), y + 10 * normal(rng, dims[1])


def tiny_scale(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Draw values around 1e-4, whose products of products are around 1e-16."""
    x, y = related(rng, dims)
    return x * 1e-4, y * 1e-4


def unit_rows(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Scale rows to length 1, as after normalisation."""
    x, y = related(rng, dims)
    return x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)


def few_samples(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Draw fewer samples than features, 64 x 2048; dims that differ stay different."""
    return related(rng, (2048, 2048 if dims[0] == dims[1] else 1024), samples=64)


def duplicates_and_ties(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Draw small integers, and every fourth sample twice: many distances are equal."""
    x, y = (side.round().clamp(-2, 2) for side in related(rng, dims))
    x[1::4], y[1::4] = x[::4].clone(), y[::4].clone()
    return x, y


def constant_columns(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Make a quarter of the features constant: dead units, and an offset."""
    x, y = related(rng, dims)
    x[:, ::4], y[:, ::4] = 0, 2.5
    return x, y


def bf16(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Draw bfloat16 tensors."""
    x, y = related(rng, dims)
    return x.bfloat16(), y.bfloat16()


def fp16(rng: np.random.Generator, dims: tuple[int, int]) -> Pair:
    """Draw float16 tensors whose squared lengths overflow float16."""
    x, y = related(rng, dims)
    return (50 * x).half(), (50 * y).half()


REGIMES: dict[str, Regime] = {
    "independent": independent,
    "related": related,
    "common offset": common_offset,
    "massive dimension": massive_dimension,
    "massive sample": massive_sample,
    "shared pattern": shared_pattern,
    "tiny scale": tiny_scale,
    "unit rows": unit_rows,
    "fewer samples than features": few_samples,
    "duplicates and ties": duplicates_and_ties,
    "constant columns": constant_columns,
    "bf16": bf16,
    "fp16": fp16,
}


def draw(regime: str, metric: str, seed: int) -> Pair:
    """Draw a regime's pair for a metric: dims 96 and 64, or 96 twice where the metric needs them equal."""
    return REGIMES[regime](np.random.default_rng(seed), (96, 96 if metric in SAME_DIMS else 64))


def exact(side: torch.Tensor) -> np.ndarray:
    """Return the same values as float64, for the references."""
    return side.double().numpy()
