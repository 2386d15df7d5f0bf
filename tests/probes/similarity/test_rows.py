"""Rows that are no samples of their own are named: repeated stimuli, zeros, one caption for all, series."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from bridgework.probes.curves.curve import alignment_curve
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.similarity.intervals import curve_draws
from bridgework.probes.similarity.nulls import curve_null, map_moments, map_null
from bridgework.probes.similarity.scaled_maps import scaled_map
from bridgework.probes.similarity.scoring import similarity, similarity_map


def features(values: np.ndarray, modality: str = "image", **changes) -> LayerFeatures:
    """Features of a subject, (layer, sample, dim)."""
    layers, samples, _ = values.shape
    names = tuple(map(str, range(layers)))
    fields = {"subject": "expert", "task": "understanding", "pass_": "separate", "pooling": "mean", "timesteps": ()}
    fields |= {"depths": tuple((i + 1) / layers for i in range(layers)), "modality": modality, "layers": names}
    fields |= {"samples": tuple(map(str, range(samples)))}
    return LayerFeatures(torch.from_numpy(values).float(), **(fields | changes))


def pictures(seed: int = 0, each: int = 5, count: int = 40) -> tuple[LayerFeatures, LayerFeatures]:
    """Unrelated towers on pictures with several captions each: equal image rows, and text rows that are alike."""
    g = np.random.default_rng(seed)
    image = np.repeat(g.standard_normal((2, count, 8)), each, axis=1)
    text = np.repeat(g.standard_normal((2, count, 8)), each, axis=1) + 0.3 * g.standard_normal((2, count * each, 8))
    return features(image), features(text, "text")


def series(seed: int, rows: int = 240, dims: int = 6, memory: float = 0.9) -> np.ndarray:
    """An autoregressive series, (sample, dim): frames of a video."""
    g = np.random.default_rng(seed)
    steps = g.standard_normal((rows, dims)) * (1 - memory**2) ** 0.5
    values = [g.standard_normal(dims)]
    for step in steps[1:]:
        values.append(memory * values[-1] + step)
    return np.array(values)


def test_several_captions_of_a_picture_are_noticed_and_refused_where_p_is_asked():
    image, text = pictures()
    counted = r"200 of 200 rows \(40 distinct in all\) of the image features of 'expert' are repeated"
    with pytest.warns(UserWarning, match=counted):
        heat = similarity_map(image, text, "mutual_knn")
    assert heat.to_numpy().mean() > 0.3  # where chance is .05
    with pytest.warns(UserWarning, match=r"200 of 200 rows \(40 distinct in all\) of x are repeated"):
        similarity(image.layer("0"), text.layer("0"), "cka")
    asks = (
        lambda: map_null(image, text, "mutual_knn"),
        lambda: map_null(text, image, "cka"),
        lambda: map_moments(image, text),
        lambda: scaled_map(image, text, "svcca"),
        lambda: alignment_curve(image, text),
        lambda: curve_null([(image.layer("0"), text.layer("0"))], "cka"),
        lambda: curve_draws([(image.layer("0"), text.layer("0"))], "cka"),
        lambda: map_null(image, text, "cka", block=2),  # not the rows of one picture
    )
    for ask in asks:
        with pytest.raises(ValueError, match=r"needs rows that could be exchanged, but 200 of 200 rows .* rows 0 and"):
            ask()


def test_repeated_stimuli_are_known_by_what_they_show_though_their_rows_differ():
    """A denoiser gives a picture that is shown under two ids two noises."""
    g = np.random.default_rng(0)
    image, text = features(g.standard_normal((2, 40, 8))), features(g.standard_normal((2, 40, 8)), "text")
    digests = {sample: f"{sample:>016} {int(sample) // 2:>016}" for sample in image.samples}
    image, text = replace(image, digests=digests), replace(text, digests=digests)
    counted = r"40 of 40 rows .* are captions of images .* \(20 images .*captions='all'"
    with pytest.warns(UserWarning, match=counted) as said:
        similarity_map(image, text, "cka")
    assert len(said) == 1
    with pytest.warns(UserWarning, match="are captions of images that have several"):
        map_null(text, text, "cka", permutations=5)  # no two rows are equal
    with pytest.raises(ValueError, match="such as rows 0 and 1: keep one row of each stimulus"):
        alignment_curve(image, text, k=5)
    one = {sample: f"{'a' * 16} {sample:>016}" for sample in image.samples}
    with pytest.raises(ValueError, match="every stimulus shows the same text"):
        alignment_curve(replace(image, digests=one), replace(text, digests=one), k=5)


def test_blocks_of_one_picture_move_together():
    ps, curves = [], []
    for seed in range(24):
        image, text = pictures(seed)
        ps.append(map_null(image, text, "mutual_knn", permutations=39, seed=seed, block=5).p[0, 0])
        if not seed:
            curves.append(alignment_curve(image, text, permutations=19, block=5))
    assert np.mean(np.array(ps) <= 0.05) <= 0.15
    assert 0.3 < np.median(ps) < 0.7
    for curve in curves:
        assert curve["chance"].isna().all()
        assert (curve["null_mean"] > 0.3).all()
        assert (curve["low"] < curve["score"]).all()
    alike = features(pictures()[0].values.numpy() + 0.1, "text")
    assert map_null(pictures()[0], alike, "mutual_knn", permutations=39, block=5).p[1, 1] == 1 / 40


@pytest.mark.parametrize("metric", ["cka", "mutual_knn"])
def test_unrelated_series_are_not_significant_in_blocks(metric):
    def rejected(block: int, count: int) -> np.ndarray:
        pairs = [(series(2 * seed), series(2 * seed + 1)) for seed in range(count)]
        return np.array([curve_null([pair], metric, 5, 39, 0, block).p[0] <= 0.05 for pair in pairs])

    assert rejected(1, 8).all()  # frames as if they were exchangeable
    assert rejected(20, 40).mean() <= 0.175
    related = series(0) + 0.3 * np.random.default_rng(9).standard_normal((240, 6))
    assert curve_null([(series(0), related)], metric, 5, 39, 0, 20).p[0] == 1 / 40


def test_a_few_repeated_rows_are_only_said():
    g = np.random.default_rng(0)
    x, y = g.standard_normal((2, 400, 8))
    x[7] = x[3]
    with pytest.warns(UserWarning, match=r"2 of 400 rows \(399 distinct in all\) of x are repeated"):
        similarity(x, y, "cka")
    assert map_null(x[None], y[None], "cka", permutations=9).p.shape == (1, 1)


def test_rows_that_only_look_alike_are_samples():
    """A long common mean, float32, layers that repeat rows before others tell them apart."""
    g = np.random.default_rng(0)
    far = (1e4 + g.standard_normal((50, 8))).astype(np.float32)
    bags = np.repeat(g.standard_normal((25, 8)), 2, axis=0)
    counts, labels = g.integers(1, 5, (50, 1)), np.eye(4)[g.integers(0, 4, 50)]  # which samples may share
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        scores = [
            similarity(far, g.standard_normal((50, 3)), "cka"),
            similarity_map(np.stack([bags, g.standard_normal((50, 8))]), g.standard_normal((1, 50, 4)), "cka"),
            map_null([counts, labels], g.standard_normal((1, 50, 4)), "cka", permutations=5).p,
            map_null(
                features(np.stack([bags, bags + g.standard_normal((50, 8))])), g.standard_normal((1, 50, 4)), "cka"
            ).p,
        ]
    assert not [str(warning.message) for warning in warned]
    assert all(np.isfinite(np.asarray(score)).all() for score in scores)


def test_rows_of_zeros_are_counted():
    g = np.random.default_rng(0)
    x, y = g.standard_normal((2, 200, 8))
    x[:90] = np.round(0.1 * x[:90]).clip(0, 0)  # a coarse int8
    for compare in (similarity_map, lambda a, b: map_null(a, b, "cka", permutations=5)):
        with pytest.warns(UserWarning, match=r"90 of 200 rows of layer 1 of x are zero: they point nowhere"):
            compare(np.stack([y + 1, x]), y[None])


def test_one_caption_for_all_is_refused():
    g = np.random.default_rng(0)
    image = features(g.standard_normal((2, 40, 8)))
    for spread in (0, 1e-6):  # equal, and equal up to the rounding of batches
        text = features(1 + spread * g.standard_normal((2, 40, 8)), "text")
        for compare in (similarity_map, map_null, lambda x, y: alignment_curve(x, y, k=5)):
            with pytest.raises(
                ValueError, match=r"all samples of the text features of 'expert' are the same \(the row"
            ):
                compare(image, text)
    first = features(np.stack([np.ones((40, 8)), g.standard_normal((40, 8))]), "text")  # as class tokens at first
    assert alignment_curve(image, first, k=5, permutations=5)["score"].isna().tolist() == [True, False]


def test_too_many_neighbours():
    g = np.random.default_rng(0)
    x, y = g.standard_normal((2, 30, 6))
    with pytest.warns(UserWarning, match=r"k = 20 of 30 samples is more than half .* score 0.69: use a k of at most 8"):
        similarity(x, y, "mutual_knn", 20)
    with pytest.warns(UserWarning, match=r"k = 10 of 30 samples is so large that strangers score 0.34: use a k of at"):
        alignment_curve(features(x[None]), features(y[None], "text"), k=10, permutations=5)
    with pytest.raises(ValueError, match="k = 15 of 30 samples is more than half of them"):
        alignment_curve(features(x[None]), features(y[None], "text"), k=15)
    with pytest.raises(ValueError, match=r"k must be an integer from 2 to .* got 1: cknna is not defined for one"):
        similarity(x, y, "cknna", 1)
    assert np.isfinite(similarity(x, y, "cknna", 2))
    assert np.isfinite(curve_draws([(x, y)], "cknna", 2)[1]).all()


def test_a_reference_without_ids():
    g = np.random.default_rng(0)
    image, reference = features(g.standard_normal((2, 40, 8))), g.standard_normal((40, 3))
    with pytest.warns(
        UserWarning, match="the reference y has no ids: its rows are taken to be the stimuli of 'expert'"
    ):
        said = alignment_curve(image, reference, k=5, permutations=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = alignment_curve(image, reference, k=5, permutations=5, samples=image.samples)
    assert known["score"].tolist() == said["score"].tolist()
    with pytest.raises(ValueError, match="sample 0 is '0' in 'expert' but '39' in samples="):
        alignment_curve(image, reference, k=5, samples=image.samples[::-1])
    with pytest.raises(ValueError, match="x has 40 samples, y has 39"), pytest.warns(UserWarning):
        alignment_curve(image, reference[:39], k=5)
    with pytest.raises(ValueError, match="x has 40 samples, samples= names 39"):
        alignment_curve(image, reference, k=5, samples=image.samples[:39])
