"""Several captions an image: score, chance, null and interval are those of one row an image."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from bridgework.figures.explorer.explored_layers import read_layers
from bridgework.probes.curves.curve import alignment_curve
from bridgework.probes.curves.curve_companions import effective_rank, score_by_samples
from bridgework.probes.evidence.complementarity import complementarity_map
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.caption_groups import CAPTIONS, image_by_image
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.similarity.nulls import map_moments, map_null
from bridgework.probes.similarity.scaled_maps import scaled_map
from bridgework.probes.similarity.scoring import similarity, similarity_map
from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.tests.probes.toys import TEXTS, letters, open_toy

IMAGES, EACH, K = 39, 5, 10  # chance is .26 of images, and .05 of captions


def features(values, modality: str, samples, groups=(), **changes) -> LayerFeatures:
    tensor = torch.from_numpy(np.asarray(values)).float()
    names = tuple(map(str, range(len(tensor))))
    depths = tuple((1 + layer) / len(tensor) for layer in range(len(tensor)))
    labels = modality, "expert", "understanding", "separate", "mean", ()
    return LayerFeatures(tensor, names, depths, *labels, samples, groups=groups, **changes)


def towers(seed: int, shared: float = 1.0, layers: int = 1) -> tuple[LayerFeatures, ...]:
    """Image and text rows of one row a caption, then of one row an image; captions of an image are alike."""
    g = np.random.default_rng(seed)
    common, (ours, theirs) = g.standard_normal((IMAGES, 6)), g.standard_normal((2, layers, IMAGES, 6))
    image = shared * common + ours
    text = np.repeat(shared * common + theirs, EACH, 1) + 0.4 * g.standard_normal((layers, IMAGES * EACH, 6))
    names = [f"{number}.jpg" for number in range(IMAGES)]
    ids, groups = [f"{name}#{caption}" for name in names for caption in range(EACH)], np.repeat(names, EACH).tolist()
    every = features(np.repeat(image, EACH, 1), "image", ids, groups), features(text, "text", ids, groups)
    return *every, features(image, "image", names), features(text[:, ::EACH], "text", names)


@pytest.fixture(scope="module")
def many() -> list[tuple[LayerFeatures, ...]]:
    return [towers(seed) for seed in range(12)]


def mean_score(pairs, **options) -> float:
    return float(np.mean([similarity_map(x, y, **options).to_numpy() for x, y in pairs]))


def test_scores_and_chance_are_those_of_one_row_an_image(many):
    one = mean_score([tower[2:] for tower in many])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = [similarity_map(*(replace(side, groups=()) for side in tower[:2])) for tower in many]
    assert np.mean(bare) > one + 0.06 and bare[0].attrs["chance"] < 0.06
    for captions in CAPTIONS:
        assert mean_score([tower[:2] for tower in many], captions=captions) == pytest.approx(one, abs=0.02)
        heat = similarity_map(*many[0][:2], captions=captions)
        assert heat.attrs["chance"] == pytest.approx(K / (IMAGES - 1)) and heat.attrs["samples"] == IMAGES
        assert heat.attrs["captions"] == captions
        # what shows each image once has one row an image
        again = similarity_map(many[0][2], many[0][1], captions=captions)
        assert again.to_numpy() == pytest.approx(heat.to_numpy())
    assert mean_score([tower[:2] for tower in many]) == mean_score([tower[:2] for tower in many], captions="mean")


def test_nulls_permute_images_and_intervals_resample_them(many):
    image, text, one_image, one_text = many[0]
    single = alignment_curve(one_image, one_text, permutations=39)
    for captions in CAPTIONS:
        curve = alignment_curve(image, text, permutations=39, captions=captions)
        null = map_null(image, text, permutations=39, captions=captions)
        assert null.mean.item() == pytest.approx(K / (IMAGES - 1), abs=0.02)
        assert null.observed.item() == pytest.approx(curve["score"].item())
        assert (curve["samples"].item(), curve["chance"].item()) == (IMAGES, pytest.approx(K / (IMAGES - 1)))
        width, expected = ((each["high"] - each["low"]).item() for each in (curve, single))
        assert 0.5 * expected < width < 1.3 * expected
        assert curve.attrs["captions"] == captions and "captions" not in single.attrs
        if captions != "draw":
            ps = [map_null(*towers(s, 0)[:2], permutations=19, seed=s, captions=captions).p.item() for s in range(20)]
            assert np.mean(np.array(ps) <= 0.05) <= 0.2 and 0.2 < np.median(ps) < 0.8
    assert scaled_map(image, text, permutations=39).attrs["samples"] == IMAGES
    assert len(map_moments(image, text).p) == 1


@pytest.mark.parametrize("metric", ["cka", "cknna"])
def test_other_metrics_average_or_draw(metric, many):
    one = mean_score([tower[2:] for tower in many[:4]], metric=metric)
    for captions in ("mean", "draw"):
        found = mean_score([tower[:2] for tower in many[:4]], metric=metric, captions=captions)
        assert found == pytest.approx(one, abs=0.06)


def test_captions_apart_are_counted_out():
    g = np.random.default_rng(0)
    numbers = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6])
    x, y = g.standard_normal((2, len(numbers), 4))
    slots, lists = 3, []
    for rows in (x, y):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        near = []
        for row, own in enumerate(numbers):
            reach = [max(unit[numbers == image] @ unit[row]) for image in range(7)]
            reach[own] = -2
            near.append(set(np.argsort(reach)[-2:].tolist()))
        lists.append(near)
    shares = [len(a & b) / 2 for a, b in zip(*lists, strict=True)]
    expected = np.mean([[np.resize(np.array(shares)[numbers == image], slots) for image in range(7)]])
    assert similarity(x, y, k=2, groups=numbers, captions="apart") == pytest.approx(expected)
    order = g.permutation(len(numbers))
    names = [f"image {number}" for number in numbers]
    null = map_null([x], [y], k=2, permutations=5, groups=names, captions="apart")
    assert null.observed.item() == pytest.approx(expected) and null.scores.shape == (5, 1, 1)
    moved = similarity(x[order], y[order], k=2, groups=numbers[order], captions="mean")
    assert moved == pytest.approx(similarity(x, y, k=2, groups=names))  # the mean is the default


def test_images_of_unlike_counts_are_averaged_layer_by_layer():
    g = np.random.default_rng(0)
    values = torch.from_numpy(g.standard_normal((2, 3, 5, 4))).half()  # (timestep, layer, caption, dim)
    groups, samples = ("a", "b", "a", "c", "b"), tuple("01234")
    names, depths = ("embeddings", "0", "1"), (0.0, 0.5, 1.0)
    labels = "image", "expert", "generation", "separate", "mean", (0.2, 0.8)
    digests = {name: f"text-{name} image-{group}" for name, group in zip(samples, groups, strict=True)}
    kept = {"widths": (4, 3, 4), "digests": digests, "groups": groups}
    given = LayerFeatures(values, names, depths, *labels, samples, **kept)
    found, _ = image_by_image(given, given).pairs[0]
    expected = [values.double()[:, :, rows].mean(2).float() for rows in ([0, 2], [1, 4], [3])]
    assert found.samples == ("a", "b", "c") and found.groups == () and found.values.shape == (2, 3, 3, 4)
    assert torch.equal(found.values, torch.stack(expected, 2)) and found.values.dtype == torch.float32
    assert torch.equal(found.layer("0"), found.values[:, 1, :, :3])
    assert torch.equal(found.at(0.8).values, found.values[1])
    assert [found.digests[name].split()[1] for name in "abc"] == ["image-a", "image-b", "image-c"]
    assert found.digests["c"] == "text-3 image-c"
    drawn = image_by_image(given, given, captions="draw").pairs
    assert len({tuple(found.values[0, 0, :, 0].tolist()) for found, _ in drawn}) > 1
    for one, other in drawn:
        assert torch.equal(one.values, other.values)  # the same caption on both sides
        assert one.values[0, 0, 0, 0] in values[0, 0, [0, 2], 0] and torch.equal(one.values[:, :, 2], values[:, :, 3])


def test_groups_are_kept_in_memory_and_in_stores(tmp_path):
    shown = letters(*TEXTS)
    captions = load_stimuli([(s.image, [s.text, s.text[::-1] + "x"[: len(s.text) < 5]]) for s in shown], captions="all")
    held = extract(open_toy(), captions)
    extract(open_toy(), captions, batch_size=1, store=tmp_path / "a")
    held.save(tmp_path / "b")
    alone = extract(open_toy(), load_stimuli([(s.image, s.text) for s in shown]))
    for found in (held, Features.load(tmp_path / "a"), Features.load(tmp_path / "b")):
        assert found["text"].groups == captions.groups == tuple(str(row // 2) for row in range(20))
        heat = similarity_map(found["image"], found["text"], "cka")
        assert heat.attrs["samples"] == 10
        pooled, _ = image_by_image(found["image"], found["text"]).pairs[0]
        assert torch.allclose(pooled.values, alone["image"].values) and pooled.samples == alone["image"].samples
        again = similarity_map(alone["image"], found["text"], "cka")  # each image shown once
        assert np.allclose(again, heat, atol=1e-4)
    assert Features.load(tmp_path / "b").provenance["stimuli_digest"] == captions.digest
    assert alone["text"].groups == ()


def test_plans_and_folds_take_images(many):
    image, text, *_ = towers(3, layers=3)
    heat = similarity_map(image, text)
    plan = choose_bridges(heat, "alignment", 2, draws=10, features=(image, text))
    single = image_by_image(image, text).pairs[0]
    again = choose_bridges(similarity_map(*single), "alignment", 2, draws=10, features=single)
    assert plan.pairs == again.pairs and plan.evidence["stability"] == again.evidence["stability"]
    assert plan.evidence["stability"]["samples"] == IMAGES // 2
    with pytest.raises(ValueError, match="make the map with captions='mean'"):
        choose_bridges(similarity_map(image, text, captions="draw"), "alignment", 2, draws=10, features=(image, text))
    assert read_layers(image, text, 10, 10, 20, 1).samples == IMAGES  # of the explorer
    assert score_by_samples(image, text, k=3, draws=2)["samples"].max() == IMAGES
    assert set(effective_rank(image)["samples"]) == {IMAGES}
    target = np.repeat(np.random.default_rng(0).standard_normal((IMAGES, 2)), EACH, 0)
    whole = complementarity_map(image, text, target)
    assert whole.equals(complementarity_map(image, text, target, groups=image.groups))
    bare_image, bare_text = (replace(side, groups=()) for side in (image, text))
    assert not whole.equals(complementarity_map(bare_image, bare_text, target))


def test_what_does_not_belong_together_is_one_error(many):
    image, text, one_image, _ = many[0]
    cases = [
        (
            lambda: similarity_map(image, text, captions="median"),
            "unknown captions 'median': expected one of mean, draw",
        ),
        (
            lambda: similarity_map(image, text, "cka", captions="apart"),
            "'apart' is for mutual_knn and linear_probe",
        ),
        (lambda: map_null(image, text, "cka", captions="apart"), "a null permutes images, which cka does not"),
        (lambda: alignment_curve(image, text, captions="draw", tolerance=0.1), "tolerance cannot go with captions="),
        (lambda: similarity_map(image, text.values[:, :50]), r"for each of 50 samples, got 195 labels of 39 groups"),
        (lambda: similarity_map(image, text, k=IMAGES), "k must be an integer from 1 to samples - 1 = 38"),
        (lambda: similarity_map(image, text, k=IMAGES, captions="apart"), "samples - 1 = 38"),
        (lambda: similarity_map(replace(image, groups=[f"x{g}" for g in image.groups]), text), "of different images"),
        (
            lambda: similarity_map(replace(one_image, samples=one_image.samples[::-1]), text),
            "nor one row for each of its images",
        ),
        (lambda: similarity_map(iter(()), groups=[1], metric="cka"), "groups are of the rows of two stacks"),
    ]
    for compare, message in cases:
        with pytest.raises(ValueError, match=message):
            compare()
    old = replace(image, groups=())
    assert similarity_map(old, text).equals(similarity_map(image, text))  # a store that was made before groups
    with pytest.raises(ValueError, match="'expert' has neither the rows of the captions of the other side"):
        similarity_map(replace(old, samples=old.samples[::-1]), text)
    swapped = replace(text, samples=[f"other {name}" for name in text.samples])
    assert similarity_map(image, swapped).attrs["samples"] == IMAGES  # means of other captions of the same images
    with pytest.raises(ValueError, match="other captions of the same images"):
        similarity_map(image, swapped, captions="draw")
