"""Permutation moments of debiased CKA are those of all permutations, counted out."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from bridgework.probes.metrics.cka import CKA
from bridgework.probes.metrics.moments import permutation_moments


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# 6 and 9 dims are more than the samples, 2 and 3 are fewer: both ways to tr(a^3)
@pytest.mark.parametrize(("samples", "dims"), [(4, (3, 2)), (5, (9, 3)), (6, (2, 6)), (7, (3, 9)), (7, (2, 3))])
def test_moments_are_those_of_all_permutations(samples, dims):
    x, y = (torch.from_numpy(rng(s).standard_normal((samples, dim)) ** 3) for s, dim in enumerate(dims))
    orders = np.array(list(permutations(range(samples))))
    scores = CKA.permuted([CKA.prepare(x, 0)], [CKA.prepare(y, 0)], 0, orders)[:, 0, 0]
    observed, deviation, skewness = permutation_moments([x], [y])
    assert observed[0, 0] == pytest.approx(CKA.scores([x], [y], 0)[0, 0], abs=1e-12)
    assert scores.mean() == pytest.approx(0, abs=1e-12)
    assert deviation == pytest.approx((2 / (samples * (samples - 3))) ** 0.5)
    assert scores.std() == pytest.approx(deviation, rel=1e-9)
    assert skewness[0, 0] == pytest.approx((scores**3).mean() / deviation**3, abs=1e-9)


def test_moments_in_float32_are_those_in_float64_also_where_digits_are_few():
    xs = [torch.from_numpy(rng(s).standard_normal((80, dim)).astype("f")) for s, dim in enumerate((5, 60, 300))]
    xs[1] += 30
    xs[2][:, 4] *= 1000
    xs.append(xs[0].clone())
    xs[-1][3] *= 2000  # one massive sample: tr(a^3) is a small difference of large numbers
    xs.append(torch.eye(80) + 1e-4 * xs[2][:, :80])  # equidistant but for a little
    single = permutation_moments(xs, xs[:2])
    double = permutation_moments([x.double() for x in xs], [x.double() for x in xs[:2]])
    np.testing.assert_allclose(single[0], double[0], atol=1e-5)
    np.testing.assert_allclose(single[2], double[2], atol=1e-3)


def test_constant_layers_have_no_moments():
    x, y = torch.full((9, 2), 0.1), torch.from_numpy(rng(0).standard_normal((9, 3)).astype("f"))
    observed, _, skewness = permutation_moments([x, y], [y])
    assert np.isnan(observed).ravel().tolist() == np.isnan(skewness).ravel().tolist() == [True, False]
