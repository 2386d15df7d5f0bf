"""Distances of feature sets: against closed forms of Gaussians, and of drawn images to real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from transformers import Dinov2Config, Dinov2Model

from bridgework.models.evaluation.image_distance import (
    frechet_distance,
    image_distance,
    image_features,
    kernel_distance,
)
from bridgework.models.experts.vision import VisionExpert
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.probes.extraction.extracting import extract


def shaped(rng: np.random.Generator, samples: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Samples that have exactly this mean and covariance."""
    white = rng.standard_normal((samples, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def covariance(rng: np.random.Generator, dims: int) -> np.ndarray:
    root = rng.standard_normal((dims, dims))
    return root @ root.T + 0.1 * np.eye(dims)


def test_frechet_of_gaussians_along_the_axes(rng):
    first, second = np.array([1.0, 4, 9]), np.array([4.0, 4, 1])
    x = shaped(rng, 50, np.zeros(3), np.diag(first))
    y = shaped(rng, 80, np.array([1.0, 2, 2]), np.diag(second))
    assert frechet_distance(x, y) == pytest.approx(9 + ((first**0.5 - second**0.5) ** 2).sum())


def test_frechet_of_any_gaussians(rng):
    first, second = covariance(rng, 6), covariance(rng, 6)
    mean = rng.standard_normal(6)
    x, y = shaped(rng, 40, np.zeros(6), first), shaped(rng, 30, mean, second)
    by_formula = mean @ mean + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet_distance(x, y) == pytest.approx(by_formula)
    assert frechet_distance(y, x) == pytest.approx(by_formula)


def test_frechet_sees_no_distance_from_itself_and_moves_by_the_square_of_a_shift(rng):
    x = rng.standard_normal((20, 64))  # more dims than samples: singular covariances
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 0.5) == pytest.approx(64 * 0.25)


def test_frechet_stands_a_large_common_offset(rng):
    x, y = rng.standard_normal((2, 30, 5))
    assert frechet_distance(x + 1e6, y + 1e6) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_frechet_is_biased_at_small_samples_and_the_kernel_distance_is_not(rng):
    """Sets of one distribution: the bias falls with N, and the kernel's mean is 0 within its error."""
    means, kernel = [], []
    for samples in (20, 80):
        pairs = rng.standard_normal((60, 2, samples, 16))
        means.append(np.mean([frechet_distance(*pair) for pair in pairs]))
        values = [kernel_distance(*pair) for pair in pairs]
        kernel.append(np.mean(values) / (np.std(values) / 60**0.5))
    assert means[0] > 3 * means[1] > 0
    assert np.abs(kernel).max() < 3.5


def test_kernel_distance_by_its_definition(rng):
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 3)) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(sum(within) - 2 * between)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("other", [np.zeros((4, 2)), np.zeros((1, 3)), np.zeros(3)])
def test_sets_that_cannot_be_compared(distance, other):
    with pytest.raises(ValueError, match=r"expected two sets of \(sample, dim\) with the same dims"):
        distance(np.zeros((4, 3)), other)


@pytest.fixture(scope="module")
def real():
    return [s.image for s in scene_stimuli("test", 32)]


@pytest.fixture(scope="module")
def tiny_vision(tiny_vlm):
    """A vision transformer of two blocks."""
    torch.manual_seed(3)
    config = Dinov2Config(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    blocks = ("encoder.layer.0", "encoder.layer.1")
    return VisionExpert("tiny-vision", Dinov2Model(config).eval(), tiny_vlm.processor, blocks)


def test_grey_squares_are_further_from_scenes_than_scenes(real, tiny_vlm):
    rng = np.random.default_rng(0)
    grey = [Image.fromarray(rng.integers(100, 150, (32, 32, 3), dtype=np.uint8)) for _ in range(16)]
    table = image_distance(grey, real, tiny_vlm, "embeddings")
    assert list(table) == ["metric", "distance", "floor", "samples", "dims", "expert", "layer"]
    assert list(table.metric) == ["frechet", "kernel"]
    assert (table.distance > 3 * table.floor.abs()).all()
    row = table.iloc[0]
    assert (row.samples, row.dims, row.expert, row.layer) == (16, 16, "tiny-vlm", "embeddings")


def test_the_floor_is_what_real_images_measure(real, tiny_vlm, tiny_vision):
    table = image_distance(real[16:], real, tiny_vlm)
    assert list(table.distance) == list(table.floor)
    assert set(table.layer) == {"embeddings"}  # the output of the vision tower
    assert set(image_distance(real[:4], real[:8], tiny_vision).layer) == {"1"}
    same = image_distance(real[:16], real, tiny_vlm)
    assert same.distance[0] == pytest.approx(0, abs=1e-9)
    assert same.floor[0] == table.floor[0] > 0


def test_features_are_those_of_extract(tiny_vlm):
    stimuli = scene_stimuli("test", 5)
    features = image_features([s.image for s in stimuli], tiny_vlm, "1")
    expected = extract(tiny_vlm, stimuli)["image"]
    assert features.dtype == np.float64
    assert np.allclose(features, expected.values[expected.layers.index("1")].numpy(), atol=1e-6)


def test_too_few_images(real, tiny_vlm, tiny_dit):
    with pytest.raises(ValueError, match=r"twice as many real ones .* got 17 and 32"):
        image_distance(real[:17], real, tiny_vlm)
    with pytest.raises(ValueError, match=r"at least 2 drawn images .* got 1 and 32"):
        image_distance(real[:1], real, tiny_vlm)
    with pytest.raises(ValueError, match="tiny-dit needs timesteps"):
        image_distance(real[:4], real, tiny_dit)
