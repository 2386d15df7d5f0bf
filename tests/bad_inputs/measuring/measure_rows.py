"""Bad inputs of similarities, maps, their nulls, and probes of labels and patches."""

from __future__ import annotations

import numpy as np
import torch

from bridgework.probes import (
    complementarity_map,
    label_probe,
    map_moments,
    map_null,
    match_patches,
    scaled_map,
    similarity,
    similarity_map,
    similarity_map_on_ray,
)
from bridgework.tests.bad_inputs.frame import rows_of
from bridgework.tests.bad_inputs.good_inputs import SAMPLES, array, features, layer_features, layers, swept

X, Y = array(), array(seed=1)
MASKED = np.ma.masked_array(X, mask=np.eye(*X.shape, dtype=bool))
META = torch.zeros(SAMPLES, 5, device="meta")
HOLED = np.where(np.eye(*X.shape) > 0, np.nan, X)
PATCHES = np.random.default_rng(0).standard_normal((6, 3, 3, 5))

ROWS = [
    *rows_of(
        "similarity",
        ("a value that is NaN", lambda: similarity(HOLED, Y), ["x holds NaN", "sample 0"], "finite"),
        ("a value that is infinite", lambda: similarity(X, np.where(HOLED != HOLED, np.inf, Y)), ["y holds"], "finite"),
        ("a masked array", lambda: similarity(MASKED, Y), ["x is a masked array"], "content"),
        ("a tensor on the device meta", lambda: similarity(X, META), ["y lies on the device meta"], "content"),
        ("complex numbers", lambda: similarity(X + 1j, Y), ["x must be an array", "complex"], "type"),
        ("texts", lambda: similarity(np.full(X.shape, "a"), Y), ["x must be an array", "real numbers"], "type"),
        ("objects", lambda: similarity(X.astype(object), Y), ["x must be an array", "object"], "type"),
        ("nothing", lambda: similarity(None, Y), ["x must be an array"], "type"),
        ("rows of unlike lengths", lambda: similarity([[1.0, 2], [3]], Y), ["x is a list", "one length"], "shape"),
        ("a stack", lambda: similarity(layers(), Y), ["x must be (sample, dim)", "similarity_map"], "shape"),
        ("one row less", lambda: similarity(X[1:], Y), ["x has 23 samples, y has 24"], "shape"),
        ("no rows", lambda: similarity(X[:0], Y[:0]), ["x", "nothing to measure"], "shape"),
        ("features of both modalities", lambda: similarity(features(), Y), ["x must be an array"], "type"),
        ("all layers", lambda: similarity(layer_features(), Y), ["x is LayerFeatures", "one layer"], "type"),
        ("a sparse tensor", lambda: similarity(torch.eye(24).to_sparse(), Y), ["x must be a dense array"], "type"),
        ("a metric near a known one", lambda: similarity(X, Y, "mutual_kn"), ["the nearest is 'mutual_knn'"], "name"),
        ("a metric that is a list", lambda: similarity(X, Y, ["cka"]), ["unknown metric", "expected one of"], "name"),
        ("a k of 0", lambda: similarity(X, Y, k=0), ["k is 0", "at least 1"], "range"),
        ("a k of True", lambda: similarity(X, Y, k=True), ["k is True", "a whole number"], "type"),
        ("a k that is a text", lambda: similarity(X, Y, k="3"), ["k is '3'", "a whole number"], "type"),
        ("a k beyond the samples", lambda: similarity(X, Y, k=24), ["k must be", "samples - 1 = 23"], "range"),
        ("an endless k", lambda: similarity(X, Y, k=10**30), ["k is 1000000", "a whole number"], "range"),
        ("unknown captions", lambda: similarity(X, Y, captions="meann"), ["captions", "nearest is 'mean'"], "name"),
        ("a label that is NaN", lambda: similarity(X, Y, groups=[np.nan] * 24), ["groups has no label"], "finite"),
        (
            "one label for all",
            lambda: similarity(X, Y, groups="a" * 24),
            ["groups is a str", "one label a row"],
            "type",
        ),
        ("labels that are lists", lambda: similarity(X, Y, groups=[[1]] * 24), ["groups has a list"], "type"),
        ("other dims for cosine", lambda: similarity(X, Y[:, :4], "cosine"), ["cosine", "dims differ"], "shape"),
    ),
    *rows_of(
        "similarity_map",
        ("one side", lambda: similarity_map(layers()), ["y is missing"], "missing"),
        ("a layer alone", lambda: similarity_map(X, layers()), ["x must be (layer, sample, dim)"], "shape"),
        ("a masked layer", lambda: similarity_map([MASKED], [Y]), ["layer 0 of x is a masked array"], "content"),
        ("a list of nothing", lambda: similarity_map([None], [Y]), ["layer 0 of x must be an array"], "type"),
        ("both modalities", lambda: similarity_map(features(), layers()), ["x holds image and text"], "type"),
        (
            "a layer with NaN",
            lambda: similarity_map([X, HOLED], [Y, Y]),
            ["layer 1 of x holds NaN", "sample 0"],
            "finite",
        ),
        ("memory below 0", lambda: similarity_map([X], [Y], memory=-1), ["memory is -1", "bytes"], "range"),
        ("endless memory", lambda: similarity_map([X], [Y], memory=np.inf), ["memory is inf"], "finite"),
        ("a flag that is a text", lambda: similarity_map([X], [Y], minibatch="no"), ["minibatch is 'no'"], "type"),
        ("endless permutations", lambda: similarity_map([X], [Y], permutations=10**30), ["permutations is"], "range"),
        ("an endless tolerance", lambda: similarity_map([X], [Y], tolerance=np.inf), ["tolerance", "0.002"], "finite"),
        (
            "a device that is missing",
            lambda: similarity_map([X], [Y], device="cuda:99"),
            ["device is 'cuda"],
            "missing",
        ),
        ("the device meta", lambda: similarity_map([X], [Y], device="meta"), ["'meta'", "expected 'auto'"], "name"),
        ("an unknown device", lambda: similarity_map([X], [Y], device="gpu"), ["device is 'gpu'", "'cpu'"], "name"),
        ("a store that is a number", lambda: similarity_map([X], [Y], store=3), ["store is 3", "a path"], "type"),
        (
            "a batch that is no pair",
            lambda: similarity_map([X], metric="cka"),
            ["batch", "pair"],
            "shape",
        ),
        ("batches for a metric of all", lambda: similarity_map([(X, Y)], metric="rsa"), ["rsa needs all"], "conflict"),
        ("minibatch of two stacks", lambda: similarity_map([X], [Y], minibatch=True), ["minibatch takes"], "conflict"),
        (
            "layers of unlike samples",
            lambda: similarity_map([X, X[1:]], [Y]),
            ["x must be layers (sample, dim) of as many samples"],
            "shape",
        ),
    ),
    *rows_of(
        "similarity_map_on_ray",
        ("an unknown metric", lambda: similarity_map_on_ray([X], [Y], "a", "ckaa"), ["nearest is 'cka'"], "name"),
        ("a store that is a number", lambda: similarity_map_on_ray([X], [Y], 3), ["store is 3", "a path"], "type"),
        ("an unknown option", lambda: similarity_map_on_ray([X], [Y], "a", kk=3), ["kk is no option"], "name"),
        ("a sweep", lambda: similarity_map_on_ray(swept(), swept(), "a"), ["one timestep", ".at(t)"], "shape"),
    ),
    *rows_of(
        "map_null",
        ("no permutations", lambda: map_null([X], [Y], permutations=0), ["permutations is 0", "200"], "range"),
        ("half a permutation", lambda: map_null([X], [Y], permutations=1.5), ["permutations is 1.5"], "type"),
        ("endless permutations", lambda: map_null([X], [Y], permutations=10**30), ["permutations is 1000"], "range"),
        ("a seed below 0", lambda: map_null([X], [Y], seed=-1), ["seed is -1"], "range"),
        ("no seed", lambda: map_null([X], [Y], seed=None), ["seed is None", "a whole number"], "type"),
        ("no whole blocks", lambda: map_null([X], [Y], block=7), ["24 samples", "blocks of 7"], "range"),
        ("a block of True", lambda: map_null([X], [Y], block=True), ["block is True"], "type"),
        ("a tolerance of True", lambda: map_null([X], [Y], tolerance=True), ["tolerance"], "type", ValueError),
        ("a metric that sees no pairs", lambda: map_null([X], [Y], "modality_gap"), ["modality_gap"], "conflict"),
        ("a sweep", lambda: map_null(swept(), layers()), ["sweep", ".at(t)"], "shape"),
    ),
    *rows_of(
        "map_moments",
        ("a layer alone", lambda: map_moments(X, layers()), ["x must be (layer, sample, dim)"], "shape"),
        ("other samples", lambda: map_moments([X], [Y[1:]]), ["24 samples", "23"], "shape"),
    ),
    *rows_of(
        "scaled_map",
        ("a list as a metric", lambda: scaled_map([X], [Y], metric=[]), ["unknown metric []"], "name"),
        ("a seed that is a list", lambda: scaled_map([X], [Y], seed=[3]), ["seed is [3]"], "type"),
    ),
    *rows_of(
        "label_probe",
        ("one class", lambda: label_probe(X, ["a"] * 24), ["labels must hold at least two"], "content"),
        ("one text", lambda: label_probe(X, "ab" * 12), ["labels is a str", "one string"], "type"),
        ("numbers with a point", lambda: label_probe(X, [0.5, 1.5] * 12), ["labels must be", "linear_probe"], "type"),
        ("too few labels", lambda: label_probe(X, ["a", "b"]), ["24 samples", "2 labels"], "shape"),
        (
            "masked labels",
            lambda: label_probe(X, np.ma.masked_equal(np.arange(24) % 2, 1)),
            ["labels is a MaskedArray"],
            "type",
        ),
        ("nothing", lambda: label_probe(X, None), ["labels is a NoneType"], "type"),
        ("groups that are a number", lambda: label_probe(X, ["a", "b"] * 12, 3), ["groups is a int"], "type"),
        ("x on the device meta", lambda: label_probe(META, ["a", "b"] * 12), ["x lies on the device meta"], "content"),
    ),
    *rows_of(
        "match_patches",
        ("two axes", lambda: match_patches(X, PATCHES), ["x must be", "got shape"], "shape"),
        ("other images", lambda: match_patches(PATCHES[1:], PATCHES), ["5 samples", "6"], "shape"),
        ("complex numbers", lambda: match_patches(PATCHES + 1j, PATCHES), ["x must be an array"], "type"),
        ("patches of NaN", lambda: match_patches(PATCHES * np.nan, PATCHES), ["x holds NaN"], "finite"),
        ("pooled features", lambda: match_patches(layer_features(), PATCHES), ["x holds features pooled by"], "shape"),
    ),
    *rows_of(
        "complementarity_map",
        ("a target of one text", lambda: complementarity_map([X], [Y], "a"), ["target is a str", "a sample"], "type"),
        ("an empty target", lambda: complementarity_map([X], [Y], []), ["target is empty"], "shape"),
        (
            "a target that is alike",
            lambda: complementarity_map([X], [Y], np.ones(24)),
            ["target is the same"],
            "content",
        ),
        (
            "a target of NaN",
            lambda: complementarity_map([X], [Y], np.full(24, np.nan)),
            ["target holds NaN"],
            "finite",
        ),
        ("too few samples", lambda: complementarity_map([X[:8]], [Y[:8]], X[:8]), ["10 samples or more"], "shape"),
    ),
]
