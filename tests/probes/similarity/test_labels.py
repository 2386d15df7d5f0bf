"""Labels are read out where they can be, and nowhere else; bad input is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.similarity.labels import label_probe


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def turned(values: np.ndarray) -> np.ndarray:
    return values @ np.linalg.qr(rng(1).standard_normal((values.shape[1], values.shape[1])))[0]


def blobs(apart: float, counts: tuple[int, ...], dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = apart * rng(0).standard_normal((len(counts), dim))
    return centres[labels] + rng(1).standard_normal((len(labels), dim)), labels


def test_labels_are_read_where_they_can_be():
    x, labels = blobs(10, (30, 20, 10))
    assert label_probe(x, labels) == (1.0, 0.5, 5, 60)
    assert label_probe(x, labels)._fields == ("score", "chance", "folds", "samples")


def test_labels_that_are_not_there_are_not_read():
    found = label_probe(rng(3).standard_normal((300, 20)), np.arange(300) % 3)
    assert found.score == pytest.approx(found.chance, abs=0.1)
    alike = label_probe(rng(3).standard_normal((300, 200)), [i % 10 == 0 for i in range(300)])
    assert alike.chance == 0.9
    assert alike.score == pytest.approx(0.9, abs=0.03)


def test_label_probe_between_certain_and_nothing():
    """Two Gaussians whose centres are 2 apart: the best classifier is right with probability Phi(1) = .841."""
    g = rng(0)
    labels = np.arange(4000) % 2
    x = g.standard_normal((4000, 5))
    x[:, 0] += 2 * labels
    assert label_probe(x, labels).score == pytest.approx(0.841, abs=0.02)


def test_label_probe_is_invariant_and_takes_any_kind_of_label_and_array():
    x, labels = blobs(0.7, (25, 25, 20))
    wanted = label_probe(x, labels)
    assert wanted.chance < wanted.score < 1
    for changed in (turned(x), 1e-3 * x, 1e200 * x, x + 30, torch.as_tensor(x), torch.as_tensor(x).requires_grad_()):
        assert label_probe(changed, labels) == wanted
    names = np.array(["cat", "dog", "owl"])
    for named in (names[labels], names[labels].tolist(), torch.as_tensor(labels), labels.tolist()):
        assert label_probe(x, named) == wanted
    assert label_probe(x, labels == 0) == label_probe(x, (labels != 0).tolist())


def test_label_probe_takes_half_precision():
    x, labels = blobs(10, (10, 10))
    for dtype in (torch.float16, torch.bfloat16):
        assert label_probe(torch.as_tensor(x).to(dtype), labels).score == 1


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.ones((10, 2)), [0, 1] * 4, "x has 10 samples, but there are 8 labels"),
        (np.ones((10, 2)), ["a"] * 10, "at least two classes, got \\['a'\\]"),
        (np.ones((12, 2)), ["a"] * 8 + ["b"] * 4, "at least 5 samples, one per fold, but .*'b'.* has 4"),
        (np.array([[0.0], [np.nan]] * 5), [0, 1] * 5, r"NaN or infinity \(5 values, the first in sample 1\)"),
        (np.array([[0.0], [np.inf]] * 5), [0, 1] * 5, "NaN or infinity"),
        (np.ones((3, 10, 2)), [0, 1] * 5, "must be \\(sample, dim\\), got shape \\(3, 10, 2\\)"),
        (np.ones(10), [0, 1] * 5, "must be \\(sample, dim\\)"),
        (np.ones((10, 0)), [0, 1] * 5, "nothing to measure"),
        (np.ones((10, 2)), [[0], [1]] * 5, "one per sample, got shape \\(10, 1\\)"),
    ],
)
def test_label_probe_refuses(x, labels, message):
    with pytest.raises(ValueError, match=message):
        label_probe(x, labels)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.ones((10, 2)), [0.1, 0.2] * 5, "labels must be strings, integers or booleans, got float64"),
        (np.ones((10, 2)), ["a", None] * 5, "labels must be strings, integers or booleans"),
        (np.ones((10, 2)) * 1j, [0, 1] * 5, "real numbers"),
    ],
)
def test_label_probe_refuses_the_wrong_kind(x, labels, message):
    with pytest.raises(TypeError, match=message):
        label_probe(x, labels)


def test_groups_are_held_out_together():
    """Five captions a picture: with random folds the label of a picture is known from its other captions."""
    g = rng(2)
    pictures = np.repeat(np.arange(40), 5)
    x, labels = np.repeat(g.standard_normal((40, 30)), 5, axis=0), np.repeat(g.integers(0, 2, 40), 5)
    x += 0.1 * g.standard_normal(x.shape)
    assert label_probe(x, labels).score > 0.9
    grouped = label_probe(x, labels, groups=[f"{picture}.png" for picture in pictures])
    assert grouped.score < 0.7
    assert (grouped.folds, grouped.samples) == (5, 200)
    with pytest.raises(ValueError, match="groups must hold one label for each of 200 samples"):
        label_probe(x, labels, groups=pictures[:-5])
