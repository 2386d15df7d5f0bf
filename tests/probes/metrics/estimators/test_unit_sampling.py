"""CKA over units is the CKA of all units, of which a layer holds a draw."""

from __future__ import annotations

import numpy as np
import pytest

from bridgework.benchmarks.support.reference import REFERENCE
from bridgework.probes.similarity.nulls import map_null
from bridgework.probes.similarity.scoring import similarity, similarity_map


def populations(g: np.random.Generator, samples: int, units: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Two populations of units that read ten common directions, unlike strongly, and five of their own."""
    common = g.standard_normal((samples, 10)) * np.arange(1, 11) ** -0.5
    x, y = (
        np.concatenate([common, 0.5 * g.standard_normal((samples, 5))], 1) @ g.standard_normal((15, units))
        for _ in range(2)
    )
    return x, y


def test_the_mean_over_draws_of_units_is_the_score_of_all_units():
    g = np.random.default_rng(0)
    x, y = populations(g, 100)
    whole = similarity(x, y, "cka_units")
    assert whole == pytest.approx(similarity(x, y, "cka"), abs=0.02)  # 600 units bias little
    few = []
    for _ in range(150):
        one, other = (side[:, g.choice(600, 25, replace=False)] for side in (x, y))
        few.append([similarity(one, other, "cka_units"), similarity(one, other, "cka")])
    (units, samples), error = np.mean(few, 0), np.std(few, 0)[0] / 150**0.5
    assert abs(units - whole) < 3 * error < 0.03
    assert samples < whole - 0.1


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_nulls_and_curves_of_one_massive_unit_keep_their_digits(shape):
    g = np.random.default_rng(1)
    x, y = (side.astype("f") for side in populations(g, shape[0], shape[1]))
    x[:, 3] *= 300
    wanted = REFERENCE["cka_units"](x.astype(float), y.astype(float), 10)
    null = map_null(x[None], y[None], "cka_units", permutations=20)
    assert null.observed[0, 0] == pytest.approx(wanted, abs=1e-5)
    assert similarity_map(x[None], y[None], "cka_units").iloc[0, 0] == pytest.approx(wanted, abs=1e-5)


def test_one_unit_says_nothing():
    x, y = populations(np.random.default_rng(0), 30)
    assert np.isnan(similarity(x[:, :1], y, "cka_units"))
