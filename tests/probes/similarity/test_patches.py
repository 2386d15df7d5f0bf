"""Patches of two grids: averaged by overlap, in the right order, refused where they are no grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.similarity.nulls import map_moments, map_null
from bridgework.probes.similarity.patches import match_patches


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def painted(picture, height: int, width: int, points: int = 420) -> torch.Tensor:
    """(1, height, width, 1): the means of a function of the unit square over the patches of a grid."""
    centres = (np.arange(points) + 0.5) / points
    values = picture(centres[:, None], centres[None, :])
    blocks = values.reshape(height, points // height, width, points // width)
    return torch.as_tensor(blocks.mean((1, 3)))[None, ..., None]


@pytest.mark.parametrize("fine", [(4, 6), (5, 7), (6, 4), (3, 7), (7, 3)])
@pytest.mark.parametrize("coarse", [(2, 3), (3, 2), (4, 4)])
def test_average_is_by_exact_area(fine, coarse):
    """Every patch is cut into so many equal pieces that each coarse patch is made of whole ones."""
    height, width = min(fine[0], coarse[0]), min(fine[1], coarse[1])
    values = rng(0).standard_normal(fine)
    x, _ = match_patches(torch.as_tensor(values)[None, ..., None], torch.zeros(1, *coarse, 2))
    pieces = values.repeat(height, 0).repeat(width, 1)
    wanted = pieces.reshape(height, fine[0], width, fine[1]).mean((1, 3))
    np.testing.assert_allclose(x.numpy()[:, 0], wanted.ravel(), atol=1e-12)


def test_a_null_of_patches_needs_those_of_an_image_to_move_together():
    x, y = match_patches(rng(0).standard_normal((2, 12, 4, 4, 8)), rng(1).standard_normal((2, 12, 3, 3, 8)))
    for null in (lambda: map_null(x, y, "cka"), lambda: map_null(x, y, "cka", block=3), lambda: map_moments(x, y)):
        with pytest.raises(ValueError, match=r"9 rows of x each are patches of one image: .* by map_null.*block=9"):
            null()
    assert map_null(x, y, "cka", permutations=20, block=9).p.min() > 0.01


def test_two_views_of_one_picture_agree():
    def picture(down, right):
        return np.sin(2 * down) + np.cos(3 * right) * down

    x, y = match_patches(painted(picture, 14, 14), painted(picture, 12, 12))
    assert x.shape == y.shape == (144, 1)
    assert float((x - y).abs().max()) < 0.02
    assert float(y.std()) > 0.3


def test_constant_grids_and_means_are_kept():
    x, y = match_patches(torch.full((2, 16, 16, 3), 0.1), torch.as_tensor(rng(0).standard_normal((2, 6, 10, 2))))
    torch.testing.assert_close(x, torch.full((2 * 60, 3), 0.1))
    values = torch.as_tensor(rng(1).standard_normal((2, 16, 15, 3)))
    x, _ = match_patches(values, y.reshape(2, 6, 10, 2))
    torch.testing.assert_close(x.reshape(2, 60, 3).mean(1), values.mean((1, 2)))


def test_patches_are_listed_row_by_row_inside_each_sample():
    x = torch.arange(2 * 3 * 4).reshape(2, 3, 4, 1).double()
    ours, theirs = match_patches(x, torch.zeros(2, 6, 4, 5))
    assert ours[:, 0].tolist() == list(range(24))
    assert theirs.shape == (24, 5)
    halved, _ = match_patches(x[:, :2], torch.zeros(2, 1, 2, 1))
    assert halved[:, 0].tolist() == [2.5, 4.5, 14.5, 16.5]


def test_leading_axes_are_kept_and_may_differ():
    x, y = rng(0).standard_normal((3, 2, 5, 4, 4, 7)), rng(1).standard_normal((6, 5, 3, 3, 2))
    ours, theirs = match_patches(x, y)
    assert (ours.shape, theirs.shape) == ((3, 2, 45, 7), (6, 45, 2))
    torch.testing.assert_close(ours[2, 1], match_patches(x[2, 1], y[0])[0])
    np.testing.assert_array_equal(theirs, y.reshape(6, 45, 2))


def test_each_axis_takes_its_own_coarser_grid():
    x, y = match_patches(torch.rand(2, 4, 9, 3), torch.rand(2, 8, 6, 3))
    assert x.shape == y.shape == (2 * 4 * 6, 3)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(given, wanted):
    values = torch.as_tensor(rng(0).standard_normal((2, 16, 16, 3))).to(given)
    x, y = match_patches(values, values[:, :5, :5])
    assert (x.dtype, y.dtype) == (wanted, wanted)
    exact = match_patches(values.double(), values[:, :5, :5].double())[0]
    assert float((x - exact).abs().max()) < 1e-6


def test_half_precision_is_not_summed_in_half():
    values = torch.full((1, 40, 40, 1), 1000.0).half()  # half would overflow at 66 of them
    values[0, 0, 0, 0] = 1001
    x, _ = match_patches(values, torch.zeros(1, 1, 1, 1))
    assert float(x[0, 0]) == pytest.approx(1000 + 1 / 1600, abs=2e-4)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.rand(2, 9, 3), torch.rand(2, 3, 3, 3), ValueError, "x must be .*got shape \\(2, 9, 3\\): unfold"),
        (torch.rand(2, 3, 3, 3), torch.rand(3, 3), ValueError, "y must be"),
        (torch.rand(2, 0, 3, 3), torch.rand(2, 3, 3, 3), ValueError, "x must be"),
        (torch.rand(2, 3, 3, 3), torch.rand(4, 3, 3, 3), ValueError, "x has 2 samples, y has 4: .*same images"),
        (torch.ones(2, 3, 3, 3, dtype=torch.complex64), torch.rand(2, 3, 3, 3), TypeError, "x must be .*complex64"),
    ],
)
def test_refuses(x, y, error, message):
    with pytest.raises(error, match=message):
        match_patches(x, y)
