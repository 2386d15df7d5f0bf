"""Scores to a tolerance are unbiased, cover as often as they say, and are exact where all rows are needed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bridgework.probes.curves.curve import alignment_curve
from bridgework.probes.metrics import METRICS
from bridgework.probes.metrics.batched_cka import hsic
from bridgework.probes.metrics.estimators import query_rows, sample_blocks
from bridgework.probes.metrics.estimators.query_rows import nearest_of
from bridgework.probes.metrics.estimators.sample_blocks import block_terms
from bridgework.probes.metrics.estimators.unit_sampling import alone
from bridgework.probes.metrics.neighbours import prepare
from bridgework.probes.similarity import sampled_maps
from bridgework.probes.similarity.nulls import map_null
from bridgework.probes.similarity.sampled_maps import sampled_scores
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.tests.probes.similarity.test_scoring import stack_of


def sides(seed: int, samples: int, layers: int = 1, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    common = g.standard_normal((samples, 4))
    x, y = (
        np.stack([common @ g.standard_normal((4, dim)) + 2 * g.standard_normal((samples, dim)) for _ in range(layers)])
        for _ in range(2)
    )
    return x.astype("f"), y.astype("f")


@pytest.mark.parametrize(("metric", "samples"), [("cka", 1024), ("mutual_knn", 1100)])
def test_errors_cover_the_score_of_all_samples(metric, samples, monkeypatch):
    # benchmarks/sampling/tolerance.py holds the long simulation
    monkeypatch.setattr(sampled_maps, "PILOT", 150)
    found = []
    for seed in range(30):
        x, y = (torch.from_numpy(side[0]) for side in sides(seed, samples))
        sampled = sampled_scores([x], [y], [(0, 0)], metric, 10, 0.5)
        assert sampled is not None
        exact = METRICS[metric].scores([x], [y], 10)[0, 0]
        found.append((sampled.scores[0] - exact) / sampled.errors[0])
        assert sampled.rows < samples
    assert abs(np.mean(found)) < 3 / 30**0.5  # no bias
    assert 0.7 < np.std(found) < 1.35
    assert np.mean(np.abs(found) < 1.96) > 0.83


@pytest.mark.parametrize("metric", ["cka", "mutual_knn"])
def test_a_map_says_its_rows_and_errors_and_reads_from_disk(metric, tmp_path):
    x, y = sides(0, 4096, 2)
    np.save(tmp_path / "x.npy", x)
    heat = similarity_map(np.load(tmp_path / "x.npy", mmap_mode="r"), y, metric, tolerance=0.012)
    attrs = json.loads(json.dumps(heat.attrs))
    errors = np.array(attrs["errors"])
    assert attrs["tolerance"] == 0.012 and attrs["rows"] < attrs["samples"] == 4096
    assert 0 < errors.max() <= 0.012
    assert (np.abs(heat.to_numpy() - similarity_map(x, y, metric).to_numpy()) < 4 * errors).all()
    null = map_null(x, y, metric, permutations=40, tolerance=0.012)
    np.testing.assert_allclose(null.observed, heat.to_numpy(), atol=1e-7)
    assert (null.rows, np.max(np.array(null.errors))) == (attrs["rows"], pytest.approx(errors.max()))
    assert (np.abs(null.mean - attrs["chance"]) < 4 * null.scores.std(0) / 40**0.5).all()
    assert (null.p == 1 / 41).all()


@pytest.mark.parametrize("metric", ["cka", "mutual_knn"])
@pytest.mark.parametrize("y_dtype", ["float16", "float32", "float64"])
def test_half_precision_on_disk_is_converted_part_by_part(metric, y_dtype, tmp_path, monkeypatch):
    samples = 12_000
    monkeypatch.setattr(sample_blocks, "READ", 2**14)
    x, y = (side.astype("float16") for side in sides(0, samples, 2))
    paths = [tmp_path / f"{layer}.npy" for layer in range(2)]
    for path, layer in zip(paths, x, strict=True):
        np.save(path, layer)
    y = y.astype(y_dtype)
    with Whole((samples, x.shape[2])) as seen:
        heat = similarity_map([np.load(path, mmap_mode="r") for path in paths], y, metric, tolerance=0.012)
    assert heat.attrs["rows"] < samples
    assert seen.converted == 0
    wide = "float64" if y_dtype == "float64" else "float32"
    expected = similarity_map(x.astype(wide), y.astype(wide), metric, tolerance=0.012)
    pd.testing.assert_frame_equal(heat, expected, check_exact=True)
    assert heat.attrs == expected.attrs
    exact = similarity_map(x, y, metric, tolerance=1e-9)  # which needs all samples
    np.testing.assert_array_equal(exact, similarity_map(x.astype(wide), y.astype(wide), metric))


class Whole(TorchDispatchMode):
    """Count the operations that give a whole layer, without those that convert nothing."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape, self.converted = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        same = isinstance(made, torch.Tensor) and any(
            isinstance(given, torch.Tensor) and given.untyped_storage().data_ptr() == made.untyped_storage().data_ptr()
            for given in args
        )
        self.converted += isinstance(made, torch.Tensor) and made.shape[-2:] == self.shape and not same
        return made


@pytest.mark.parametrize("metric", ["cka", "mutual_knn"])
def test_all_rows_give_the_exact_score_bit_for_bit(metric):
    x, y = sides(0, 1200)
    heat = similarity_map(x, y, metric, tolerance=1e-6)
    assert heat.attrs["rows"] == 1200 and heat.attrs["errors"] == [[0.0]]
    assert heat.iloc[0, 0] == similarity_map(x, y, metric).iloc[0, 0]
    null = map_null(x, y, metric, permutations=3, tolerance=1e-6)
    np.testing.assert_array_equal(null.scores, map_null(x, y, metric, permutations=3).scores)
    assert (null.rows, np.array(null.errors).tolist()) == (1200, [[0.0]])


@pytest.mark.parametrize("kind", ["centred", "an offset", "one huge dim", "few samples", "float64"])
def test_terms_are_those_of_the_blocks(kind):
    samples = 16 if kind == "few samples" else 64
    x, y = (torch.from_numpy(side[0]) for side in sides(1, samples))
    if kind == "an offset":  # the Gram's square is all but what its rows have in common
        x += 300
    if kind == "one huge dim":
        x[:, 3] += 1e5 * y[:, 0]
    if kind == "float64":
        x, y = x.double(), y.double() + 1e6
    layers, half = [x, y, torch.ones_like(x)], samples // 2

    def wanted(part: slice) -> np.ndarray:
        cut = [layer[part] for layer in layers]
        return hsic(cut, exact=True) / (len(cut[0]) * (len(cut[0]) - 3))

    whole, halved = block_terms(layers, units=False)
    scale = np.sqrt(np.diag(wanted(slice(None)))[:2])
    for found, right in (
        (whole, wanted(slice(None))),
        (halved, (wanted(slice(None, half)) + wanted(slice(half, None))) / 2),
    ):
        np.testing.assert_allclose((found - right)[:2, :2] / np.outer(scale, scale), 0, atol=3e-6)
        assert (found[2] == 0).all() and (found[:, 2] == 0).all()
    own = (hsic([x], exact=True)[0, 0] - alone(x)) * 12 / 11 / (samples * (samples - 3))
    assert block_terms([x, y], units=True)[0, 0, 0] == pytest.approx(own, rel=1e-5)


def test_a_map_to_a_tolerance_knows_neither_offset_nor_unit(monkeypatch):
    monkeypatch.setattr(sample_blocks, "READ", 500)
    x, y = sides(0, 2048, 2)
    heat = similarity_map(x, y, "cka", tolerance=0.5)
    moved = similarity_map(1e-15 * x, 1e12 * (y.astype(float) + 1e4), "cka", tolerance=0.5)
    assert moved.attrs["rows"] == heat.attrs["rows"] < 2048
    np.testing.assert_allclose(moved, heat, atol=1e-6)
    np.testing.assert_allclose(moved.attrs["errors"], heat.attrs["errors"], rtol=1e-4)


def test_queries_find_the_neighbours_of_the_exact_map(monkeypatch):
    monkeypatch.setattr(query_rows, "CHUNK", 64)
    g = np.random.default_rng(0)
    rows = np.concatenate([g.integers(-3, 4, (150, 9)), 30 + g.standard_normal((150, 9))]).astype("f")
    rows[3] = rows[290] = 0
    rows[41], rows[77] = rows[40], rows[40]  # ties; the second half lies at cosines of .999
    x, queries = torch.from_numpy(rows), np.array([0, 3, 40, 77, 140, 160, 299, 290])
    prepared, found = prepare(x, 10), nearest_of(x, queries, 10, x.dtype)
    assert prepared is not None
    wanted = prepared.near[queries]
    assert [set(row) for row in found.tolist()] == [set(row) for row in wanted.tolist()]


@pytest.mark.parametrize("kind", ["repeated", "two directions", "close"])
def test_ties_beyond_the_candidates_go_by_index(kind, monkeypatch):
    monkeypatch.setattr(query_rows, "CHUNK", 64)
    g = np.random.default_rng(0)
    if kind == "repeated":
        rows = g.standard_normal((6, 9))[g.integers(0, 6, 400)]
        rows[::7] = 0
    elif kind == "two directions":
        rows = g.standard_normal((400, 1))
    else:  # nearer than float32 resolves
        rows = np.where(g.random((400, 1)) < 0.5, -1, 1) * np.eye(9)[0] + 1e-4 * g.standard_normal((400, 9))
    x, queries = torch.from_numpy(rows.astype("f")), g.permutation(400)[:80]
    prepared = prepare(x, 10)
    assert prepared is not None
    found = nearest_of(x, queries, 10, x.dtype)
    assert [set(row) for row in found.tolist()] == [set(row) for row in prepared.near[queries].tolist()]


@pytest.mark.parametrize("metric", ["cka", "cka_units"])
@pytest.mark.parametrize("share", [1 / 2048, 0.02])
def test_samples_far_from_all_others_are_not_missed(metric, share):
    x, y = sides(0, 2048)
    chosen = np.random.default_rng(1).permutation(2048)[: int(2048 * share)]
    x[:, chosen] *= 1000
    heat, exact = similarity_map(x, y, metric, tolerance=0.5), similarity_map(x, y, metric)
    np.testing.assert_array_equal(heat.to_numpy(), exact.to_numpy())
    assert heat.attrs["rows"] == 2048


@pytest.mark.parametrize("metric", ["cka", "mutual_knn"])
def test_every_value_is_checked(metric):
    x, y = sides(0, 4096)
    order = np.random.default_rng(2).permutation(4096)
    y[0, order[-1], 3] = np.inf  # a row that is drawn last
    with pytest.raises(ValueError, match=f"layer 0 of y holds NaN or infinity.*sample {order[-1]}"):
        similarity_map(x, y, metric, tolerance=0.5)


def test_a_curve_takes_a_tolerance():
    x, y = (stack_of((3, 1100, 6), seed, modality=name) for seed, name in ((0, "image"), (1, "text")))
    y.values[1] += x.values[1]
    curve = alignment_curve(x, y, "cka", permutations=19, tolerance=0.05)
    errors, whole = np.array(curve.attrs["errors"]), np.diag(similarity_map(x, y, "cka"))
    assert curve.attrs["rows"] < 1100 and errors.max() <= 0.05
    assert (np.abs(curve.score - whole) < 4 * errors).all()
    # other samples could have given more than other rows of these
    assert ((curve.high - curve.score) / 1.96 > errors)[1]
    assert curve.p.tolist()[1] == 1 / 20
    fixed = alignment_curve(x, y.values[1], "mutual_knn", permutations=9, tolerance=0.05, samples=x.samples)
    assert fixed.attrs["rows"] == 512 and fixed.score[1] > fixed.score[0]


def test_a_wrong_tolerance_is_one_error():
    x, y = sides(0, 40)
    for wrong in (0, -1, np.nan, np.inf, True, "0.1"):
        with pytest.raises(ValueError, match="tolerance must be a standard error above 0"):
            similarity_map(x, y, "cka", tolerance=wrong)
    with pytest.raises(ValueError, match="svcca of some samples is no estimate of svcca of all"):
        map_null(x, y, "svcca", tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance cannot go with block="):
        map_null(x, y, "cka", tolerance=0.1, block=4)
    with pytest.raises(ValueError, match="tolerance cannot go with groups="):
        similarity_map(x, y, groups=[row // 2 for row in range(40)], captions="apart", tolerance=0.1)
    x[0, 7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        similarity_map(x, y, "cka", tolerance=0.1)
