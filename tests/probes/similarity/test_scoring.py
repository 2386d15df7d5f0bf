"""The public doors of similarity: golden values, labels, stacks of every kind, batches, memory, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.metrics import METRICS
from bridgework.probes.similarity.nulls import map_null
from bridgework.probes.similarity.scoring import similarity, similarity_map

GOLDENS = json.loads((Path(__file__).parents[2] / "data" / "metric_goldens.json").read_text())["cases"]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def golden_pair(name: str) -> list[np.ndarray]:
    if name.startswith("independent"):
        n, d = (int(part) for part in name.split()[1].split("x"))
        pair = [rng(0).standard_normal((n, d)), rng(1).standard_normal((n, d))]
    else:
        g, noise = rng(3), float(name.split()[-1])
        shared = g.standard_normal((128, 5))
        pair = []
        for dim in (48, 40):
            weight = g.standard_normal((5, dim))
            pair.append(shared @ weight + noise * g.standard_normal((128, dim)))
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair]


def stack_of(shape: tuple[int, ...], seed: int, **changes) -> LayerFeatures:
    layers, samples = shape[-3], shape[-2]
    fields = {
        "values": torch.from_numpy(rng(seed).standard_normal(shape).astype("f")),
        "layers": ("embeddings", *map(str, range(layers - 1))),
        "depths": tuple(i / (layers - 1) for i in range(layers)),
        "modality": "image",
        "subject": "expert",
        "task": "generation",
        "pass_": "separate",
        "pooling": "mean",
        "timesteps": (0.2, 0.8)[: shape[0]] if len(shape) == 4 else (),
        "samples": tuple(f"s{i}" for i in range(samples)),
    }
    return LayerFeatures(**(fields | changes))


@pytest.mark.parametrize("case", GOLDENS, ids=[case["name"] for case in GOLDENS])
@pytest.mark.parametrize("metric", ["cka", "cka_biased", "mutual_knn", "cknna"])
def test_goldens(case, metric):
    x, y = golden_pair(case["name"])
    assert similarity(x, y, metric) == pytest.approx(case[metric], abs=6e-7)


@pytest.mark.parametrize("metric", list(METRICS))
def test_map_is_every_pair_and_labelled(metric):
    dims = 6 if METRICS[metric].same_dims else 5
    x, generation = stack_of((3, 20, 6), 0, modality="text"), stack_of((4, 20, dims), 1, subject="other")
    y = generation.values
    heat = similarity_map(x, generation, metric, k=5)
    assert heat.index.tolist() == ["embeddings", "0", "1"]
    assert heat.columns.tolist() == ["embeddings", "0", "1", "2"]
    assert (heat.index.name, heat.columns.name) == ("understanding layer", "generation layer")
    for i in range(3):
        for j in range(4):
            assert heat.iloc[i, j] == pytest.approx(similarity(x.values[i], y[j], metric, 5), abs=1e-6, nan_ok=True)
    attrs = json.loads(json.dumps(heat.attrs))
    assert attrs["metric"] == metric
    assert attrs["samples"] == 20
    assert attrs["k"] == (5 if METRICS[metric].neighbours else None)
    known = {"cka": 0.0, "cka_units": 0.0, "rsa": 0.0, "mutual_knn": 5 / 19, "information_imbalance": 1.0}
    assert attrs["chance"] == known.get(metric)
    assert attrs["x_depths"] == [0, 0.5, 1]
    assert attrs["x"]["modality"] == "text"
    assert attrs["y"]["subject"] == "other"


def test_map_of_plain_stacks():
    x, y = torch.randn(2, 12, 4, generator=torch.manual_seed(0)), rng(0).standard_normal((3, 12, 4))
    heat = similarity_map(x.bfloat16().requires_grad_(), y, "cka")
    assert heat.index.tolist() == [0, 1]
    assert heat.attrs["y_depths"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert np.isfinite(heat.to_numpy()).all()


@pytest.mark.parametrize("metric", [name for name in METRICS if not METRICS[name].same_dims])
def test_a_layer_that_says_nothing_is_nan(metric):
    x, y = rng(0).standard_normal((2, 20, 6)).astype("f"), rng(1).standard_normal((2, 20, 6))
    y[..., 1:] += y[..., :1]  # units that have something in common, without which cka_units says nothing either
    x[..., 1:] += x[..., :1]
    x[1] = rng(2).standard_normal(6)
    heat = similarity_map(x, y, metric)
    assert np.isnan(heat.to_numpy())[1].all()
    assert np.isfinite(heat.to_numpy()[0]).all()
    long = np.full((900, 3), 0.1, "f")
    assert np.isnan(similarity(long, rng(0).standard_normal((900, 3)), metric))


def test_layers_may_differ_in_dims_and_lie_on_disk(tmp_path):
    x, y = rng(0).standard_normal((2, 30, 6)).astype("f"), [rng(1).standard_normal((30, d)) for d in (3, 6, 40)]
    heat = similarity_map(x, y, "cka")
    assert heat.shape == (2, 3)
    assert heat.iloc[1, 2] == pytest.approx(similarity(x[1], y[2], "cka"), abs=1e-6)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(similarity_map(mapped, x, "cka"), similarity_map(x, x, "cka"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", list(METRICS))
def test_half_precision_is_that_of_the_rounded_values(metric, dtype):
    x, y = (torch.from_numpy(rng(s).standard_normal((40, 6)) + rng(s + 2).standard_normal((40, 1))) for s in range(2))
    x, y = x.to(dtype), y.to(dtype)
    assert similarity(x, y, metric) == pytest.approx(similarity(x.double(), y.double(), metric), abs=1e-5)


def test_what_a_training_script_allows_does_not_reach_the_scores():
    x, y = (torch.from_numpy(rng(s).standard_normal((200, 64)).astype("f")) for s in range(2))
    y += x
    wanted = {metric: similarity(x, y, metric) for metric in ("cka", "mutual_knn", "svcca")}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert {metric: similarity(x, y, metric) for metric in wanted} == wanted
            assert similarity_map(x[None], y[None], "cka").iloc[0, 0] == wanted["cka"]
            assert map_null(x[None], y[None], "cka", permutations=1).observed[0, 0] == pytest.approx(
                wanted["cka"], abs=1e-6
            )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_arrays_that_torch_cannot_read():
    x, y = rng(0).standard_normal((2, 30, 4))
    assert similarity(x[::-1], y[::-1], "cka") == pytest.approx(similarity(x, y, "cka"))
    assert similarity(x.astype(np.longdouble), y.astype(">f8"), "cka") == pytest.approx(similarity(x, y, "cka"))
    with pytest.raises(TypeError, match="x must be a dense array or tensor"):
        similarity(torch.eye(8).to_sparse(), torch.eye(8), "cka")


@pytest.mark.parametrize("metric", ["cka", "cka_biased"])
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_constant_and_equidistant_layers_of_batches_are_nan(metric, dtype):
    x, y = (torch.from_numpy(rng(s).standard_normal((2, 40, 5)).astype(dtype)) for s in range(2))
    x[1] = 0.1
    heat = similarity_map(batches(x, y, 10), metric=metric)
    assert np.isnan(heat.to_numpy())[1].all()
    np.testing.assert_allclose(heat.iloc[0], similarity_map(x[:1], y, metric).iloc[0], atol=1e-6)
    late = x.clone()
    late[1, 10:] = y[0, 10:]  # constant in the first batch only
    np.testing.assert_allclose(
        similarity_map(batches(late, y, 10), metric="cka"), similarity_map(late, y, "cka"), rtol=0, atol=1e-5
    )
    if metric == "cka":
        assert np.isnan(similarity_map(batches(x, y, 10), metric="cka", minibatch=True).to_numpy())[1].all()
        eye = torch.eye(8).to(x)[None]
        assert np.isnan(similarity_map([(eye, x[:1, :8])], metric="cka", minibatch=True).iloc[0, 0])


def halves(samples: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = rng(0).standard_normal((3, samples, 6)).astype("f"), rng(1).standard_normal((2, samples, 4)).astype("f")
    y[0] += x[1][:, :4]
    x[2] += 30
    return torch.from_numpy(x), torch.from_numpy(y)


def batches(x: torch.Tensor, y: torch.Tensor, size: int):
    for start in range(0, x.shape[1], size):
        yield x[:, start : start + size], y[:, start : start + size]


@pytest.mark.parametrize("metric", ["cka", "cka_biased"])
def test_batches_read_once_give_the_whole_map(metric):
    x, y = halves()
    wanted = similarity_map(x, y, metric)
    heat = similarity_map(batches(x, y, 17), metric=metric)
    np.testing.assert_allclose(heat, wanted, rtol=0, atol=2e-6)
    assert heat.attrs["samples"] == 90
    assert heat.attrs["x_depths"] == wanted.attrs["x_depths"]
    double = similarity_map(batches(x.double(), y.double(), 17), metric=metric)
    np.testing.assert_allclose(double, similarity_map(x.double(), y.double(), metric), rtol=0, atol=1e-12)


def test_minibatch_cka_is_the_published_sum():
    # Nguyen et al. 2021, eq. 2 and 3, with their HSIC_1 written out
    def hsic(a, b):
        k, l_ = (side @ side.T - np.diag(np.diag(side @ side.T)) for side in (a, b))
        n = len(k)
        middle = k.sum() * l_.sum() / ((n - 1) * (n - 2))
        return (np.trace(k @ l_) + middle - 2 / (n - 2) * (k @ l_).sum()) / (n * (n - 3))

    x, y = halves()
    x[1] *= 1e-3
    parts = [(xb.double().numpy(), yb.double().numpy()) for xb, yb in batches(x, y, 30)]
    for i in range(3):
        for j in range(2):
            cross, own_x, own_y = (
                sum(hsic(a, b) for a, b in pairs)
                for pairs in (
                    [(xb[i], yb[j]) for xb, yb in parts],
                    [(xb[i], xb[i]) for xb, _ in parts],
                    [(yb[j], yb[j]) for _, yb in parts],
                )
            )
            found = similarity_map(batches(x, y, 30), metric="cka", minibatch=True).iloc[i, j]
            assert found == pytest.approx(cross / (own_x * own_y) ** 0.5, abs=2e-6)


def test_memory_bounds_what_is_held_and_not_what_is_found():
    x, y = halves()
    for some in (90, 5):  # by products of dims, and by tables of samples
        a, b = x[:, :some], y[:, :some]
        for metric in ("cka", "cka_biased"):
            bounded = similarity_map(a, b, metric, memory=1)
            np.testing.assert_allclose(bounded, similarity_map(a, b, metric), rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match=r"all layers at once need memory=.*allow more"):
        similarity_map(batches(x, y, 30), metric="cka", memory=100)


def test_batches_that_cannot_be_taken_are_named():
    x, y = halves()
    for bad, message in [
        (lambda: similarity_map(batches(x, y, 30), metric="mutual_knn"), "mutual_knn needs all samples at once"),
        (lambda: similarity_map(batches(x, y, 30), metric="no"), "unknown metric 'no'"),
        (lambda: similarity_map(batches(x, y, 30), metric="cka_biased", minibatch=True), "which is metric='cka'"),
        (
            lambda: similarity_map(batches(x, y, 29), metric="cka", minibatch=True),
            "cka needs at least 4 samples, got 3",
        ),
        (lambda: similarity_map(x, y, "cka", minibatch=True), "minibatch takes batches"),
        (lambda: similarity_map(x, metric="cka"), "y is missing"),
        (lambda: similarity_map(iter([(x[:1], x), (x, x[:1])]), metric="cka"), "batch 1 has layers of dims"),
        (lambda: similarity_map(iter([]), metric="cka"), "no batches"),
        (lambda: similarity_map(iter([]), metric="cka", minibatch=True), "no batches"),
        (
            lambda: similarity_map(iter([(x, y), (x, x)]), metric="cka"),
            r"batch 1 has layers of dims \(\[6, 6, 6\], \[6, 6, 6\]\), those before",
        ),
        (lambda: similarity_map(iter([x]), metric="cka"), r"batch 0 must be a pair \(x, y\)"),
        (lambda: similarity_map(iter([(x, y[:, :3])]), metric="cka"), "x has 90 samples, y has 3"),
        (lambda: similarity_map(iter([(x[:, :2], y[:, :2])]), metric="cka"), "cka needs at least 4 samples, got 2"),
        (lambda: similarity_map(iter([(x * torch.nan, y)]), metric="cka"), "layer 0 of x of batch 0 holds NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()


def test_bad_input_is_named():
    x = rng(0).standard_normal((20, 4))
    for bad, message in [
        (
            lambda: similarity(x, x, "ckaa"),
            "unknown metric 'ckaa': expected one of cka, cka_biased, cka_rbf, cka_units",
        ),
        (lambda: similarity(x, x[:9], "cka"), "x has 20 samples, y has 9"),
        (lambda: similarity(x[:3], x[:3], "cka"), "cka needs at least 4 samples, got 3"),
        (lambda: similarity(x[:1], x[:1], "mutual_knn"), "mutual_knn needs at least 2 samples, got 1"),
        (lambda: similarity(x, x, "mutual_knn", 20), "k must be an integer from 1 to samples - 1 = 19, got 20"),
        (lambda: similarity(x, x, "mutual_knn", 0), "k is 0"),
        (lambda: similarity(x, x, "mutual_knn", True), "k is True"),
        (lambda: similarity(x, x, "mutual_knn", 2.5), "k is 2.5"),
        (lambda: similarity(x[None], x, "cka"), r"x must be \(sample, dim\), got shape \(1, 20, 4\)"),
        (lambda: similarity(x[:, :0], x, "cka"), "nothing to measure"),
        (
            lambda: similarity(x, x[:, :3], "cosine"),
            r"cosine compares x and y dim by dim, but their dims differ \(3, 4\)",
        ),
        (lambda: similarity_map([x, x[:9]], [x], "cka"), r"x must be layers \(sample, dim\) of as many samples each"),
        (lambda: similarity_map(x, x, "cka"), r"x must be \(layer, sample, dim\)"),
        (
            lambda: map_null(stack_of((2, 3, 20, 4), 0), x[None], "cka"),
            r"timesteps 0.2, 0.8: select one with .at",
        ),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            bad()
    with pytest.raises(TypeError, match="x holds image and text: pass one, as features"):
        similarity_map({"image": [x], "text": [x]}, [x])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="array or tensor of real numbers"):
        similarity(np.array([["a", "b"]]), x, "cka")


def test_what_is_not_finite_is_named():
    for bad in (np.nan, np.inf):
        x = stack_of((3, 10, 4), 0)
        x.values[1, 7, 2] = bad
        with pytest.raises(ValueError, match=r"layer '0' of image features of 'expert' holds NaN .* sample 7"):
            similarity_map(x, stack_of((3, 10, 4), 1), "cka")
        with pytest.raises(ValueError, match="layer 1 of y holds NaN or infinity"):
            similarity_map(np.zeros((1, 10, 4)), x.values, "cka")
        with pytest.raises(ValueError, match="x holds NaN"):
            similarity(x.values[1], x.values[0], "cka")


def test_different_stimuli_are_named():
    ids = tuple(f"s{i}" for i in (0, 2, 1, *range(3, 10)))
    with pytest.raises(ValueError, match=r"sample 1 is 's1' in 'expert' but 's2' in 'other'"):
        similarity_map(stack_of((2, 10, 4), 0), stack_of((2, 10, 4), 1, samples=ids, subject="other"), "cka")
