"""Bad inputs of curves and what is read from them, and of bridge plans that are chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bridgework.probes import (
    Divergence,
    alignment_curve,
    alignment_matrix,
    choose_bridges,
    divergence,
    effective_rank,
    halves_ceiling,
    lay_out,
    published_taps,
    rises,
    rises_then_falls,
    score_by_samples,
    score_plan,
    spatial_similarity,
)
from bridgework.tests.bad_inputs.frame import rows_of
from bridgework.tests.bad_inputs.good_inputs import (
    array,
    curve,
    features,
    heat,
    layer_features,
    plan,
    plan_file,
    swept,
)


def image(**fields):
    return layer_features("image", 0, **fields)


def text():
    return layer_features("text", 1)


def changed(table, **columns):
    """A copy of a table with other columns, and the same attrs."""
    made = table.assign(**columns)
    made.attrs = dict(table.attrs)
    return made


def turned():
    """The layer map on its side."""
    return heat().T


def filled(value):
    """The layer map with one value in all cells."""
    made = heat().astype(object).where(heat() > 9, value) if isinstance(value, str) else heat() * 0 + value
    made.attrs = dict(heat().attrs)
    return made


LINKS = pd.DataFrame({"understanding": ["first"], "generation": [0], "score_lost": [0.1], "loss_increase": [0.1]})
CONFLICT = pd.DataFrame({"layer": ["first"], "depth": [1.0], "conflict": [0.1]})

ROWS = [
    *rows_of(
        "alignment_curve",
        ("both modalities", lambda: alignment_curve(features(), text()), ["x is", "features['image']"], "type"),
        ("an array", lambda: alignment_curve(array(), text()), ["x is", "expected a LayerFeatures"], "type"),
        ("a path", lambda: alignment_curve("runs/vlm", text()), ["x is 'runs/vlm'", "LayerFeatures"], "type"),
        ("y of both modalities", lambda: alignment_curve(image(), features()), ["y is", "features['image']"], "type"),
        ("no y", lambda: alignment_curve(image(), None), ["y must be an array"], "type"),
        ("y of one axis", lambda: alignment_curve(image(), np.zeros(24)), ["y must be", "got shape (24,)"], "shape"),
        (
            "permutations as a text",
            lambda: alignment_curve(image(), text(), permutations="9"),
            ["permutations"],
            "type",
        ),
        ("a seed of NaN", lambda: alignment_curve(image(), text(), seed=np.nan), ["seed is nan"], "type"),
        ("a block of 0", lambda: alignment_curve(image(), text(), block=0), ["block is 0", "at least 1"], "range"),
        ("ids that are one word", lambda: alignment_curve(image(), array(), samples="abc"), ["samples is"], "type"),
        ("ids that are a number", lambda: alignment_curve(image(), array(), samples=3), ["samples is 3"], "type"),
        ("ids of two rows", lambda: alignment_curve(image(), array(), samples=["a", "b"]), ["names 2"], "shape"),
        ("k above half", lambda: alignment_curve(image(), text(), k=20), ["k", "24 samples"], "range"),
        (
            "another model",
            lambda: alignment_curve(image(), layer_features("text", 1, subject="other")),
            ["at_layer('last')"],
            "conflict",
        ),
        (
            "other stimuli",
            lambda: alignment_curve(image(), layer_features(samples=tuple(f"n{n}" for n in range(24)))),
            ["different stimuli", "sample 0"],
            "conflict",
        ),
    ),
    *rows_of(
        "alignment_matrix",
        ("features alone", lambda: alignment_matrix(image()), ["features must be a list"], "type"),
        ("one model", lambda: alignment_matrix([image()]), ["two models at least"], "shape"),
        ("arrays", lambda: alignment_matrix([array(), array()]), ["features 0 must be LayerFeatures"], "type"),
        ("one model twice", lambda: alignment_matrix([image(), image()]), ["given twice"], "conflict"),
        ("a layer that is a table", lambda: alignment_matrix([image(), text()], {"a": 1}), ["layer is"], "type"),
        ("an unknown layer", lambda: alignment_matrix([image(), text()], "zz"), ["zz"], "name"),
        ("a layer of NaN", lambda: alignment_matrix([image(), text()], np.nan), ["nan"], "finite"),
        (
            "a metric that is no text",
            lambda: alignment_matrix([image(), text()], None, 3),
            ["unknown metric 3"],
            "name",
        ),
    ),
    *rows_of(
        "score_by_samples",
        ("a part above 1", lambda: score_by_samples(image(), text(), parts=(2.0,)), ["parts is", "at most 1"], "range"),
        ("no parts", lambda: score_by_samples(image(), text(), parts=()), ["parts is ()"], "shape"),
        ("parts too small", lambda: score_by_samples(image(), text(), k=3, parts=(0.01,)), ["no part of 24"], "range"),
        ("no draws", lambda: score_by_samples(image(), text(), draws=0), ["draws is 0"], "range"),
        ("an endless k", lambda: score_by_samples(image(), text(), k=np.inf), ["k is inf"], "type"),
        ("a table", lambda: score_by_samples(curve(), text()), ["x is", "LayerFeatures"], "type"),
    ),
    *rows_of(
        "halves_ceiling",
        ("a text", lambda: halves_ceiling("image", text()), ["x is 'image'", "LayerFeatures"], "type"),
        ("a sweep", lambda: halves_ceiling(image(), swept()), ["y hold the timesteps", "y.at(0.2)"], "shape"),
        ("a distance", lambda: halves_ceiling(image(), text(), "modality_gap"), ["modality_gap is a"], "conflict"),
        ("endless draws", lambda: halves_ceiling(image(), text(), draws=10**30), ["draws is"], "range"),
    ),
    *rows_of(
        "effective_rank",
        ("nothing", lambda: effective_rank(None), ["features is None", "LayerFeatures"], "type"),
        ("both modalities", lambda: effective_rank(features()), ["features is", "features['image']"], "type"),
        ("a sweep", lambda: effective_rank(swept()), ["timesteps 0.2, 0.5", "features.at(0.2)"], "shape"),
    ),
    *rows_of(
        "spatial_similarity",
        ("no grid", lambda: spatial_similarity(image()), ["pooled by mean", "grid:8"], "shape"),
        ("an array", lambda: spatial_similarity(array()), ["features is", "LayerFeatures"], "type"),
    ),
    *rows_of(
        "divergence",
        ("nothing", lambda: divergence(None, curve()), ["understanding_curve is None", "alignment_curve"], "type"),
        ("an empty table", lambda: divergence(curve(), pd.DataFrame()), ["generation_curve has no column"], "shape"),
        ("no rows", lambda: divergence(curve().iloc[:0], curve()), ["understanding_curve has no rows"], "shape"),
        (
            "texts as scores",
            lambda: divergence(changed(curve(), score="x"), curve()),
            ["column 'score'"],
            "type",
            ValueError,
        ),
        ("a kind near a known one", lambda: divergence(curve(), curve(), "splt"), ["nearest is 'split'"], "name"),
        ("a list as a kind", lambda: divergence(curve(), curve(), ["split"]), ["unknown kind"], "name"),
        (
            "no subject",
            lambda: divergence(curve().drop(columns="subject"), curve()),
            ["no column 'subject'", "kind='split'"],
            "shape",
        ),
        (
            "curves of other draws",
            lambda: divergence(changed(curve(), pairing="other"), curve(), "split"),
            ["differ in pairing", "same"],
            "conflict",
        ),
    ),
    *rows_of(
        "Divergence",
        ("a depth above 1", lambda: Divergence("peak", 2.0, 0.1, 0.2, "so"), ["depth is 2.0", "from 0 to 1"], "range"),
        ("an unknown kind", lambda: Divergence("peek", 0.2, 0.1, 0.2, "so"), ["nearest is 'peak'"], "name"),
        ("samples as a text", lambda: Divergence("peak", 0.2, 0.1, 0.2, "so", samples="9"), ["samples is '9'"], "type"),
    ),
    *rows_of(
        "rises",
        ("a list", lambda: rises([1, 2]), ["curve is [1, 2]", "alignment_curve"], "type"),
        ("no draws", lambda: rises(curve().drop(columns="draws")), ["curve has no draws", "Parquet"], "shape"),
        ("draws that are texts", lambda: rises(changed(curve(), draws="x")), ["curve holds no lists"], "content"),
        ("an infinite score", lambda: rises(changed(curve(), score=np.inf)), ["column 'score'"], "finite"),
        ("a score of NaN", lambda: rises(changed(curve(), score=np.nan)), ["has no score"], "finite"),
        ("a depth of NaN", lambda: rises(changed(curve(), depth=[0, 0.5, np.nan])), ["without a depth"], "finite"),
        ("two curves", lambda: rises(pd.concat([curve(), curve()])), ["more than one curve"], "shape"),
    ),
    *rows_of(
        "rises_then_falls",
        ("a path", lambda: rises_then_falls("curve.csv"), ["curve is 'curve.csv'", "DataFrame"], "type"),
        ("no layers", lambda: rises_then_falls(curve().iloc[:0]), ["curve has no rows"], "shape"),
    ),
    *rows_of(
        "choose_bridges",
        ("a map on its side", lambda: choose_bridges(turned(), "alignment"), ["transposed", "understanding"], "shape"),
        ("a map of texts", lambda: choose_bridges(filled("x"), "alignment"), ["no finite numbers"], "type", ValueError),
        ("a map of NaN", lambda: choose_bridges(filled(np.nan), "alignment"), ["NaN alone"], "finite"),
        ("a map with infinity", lambda: choose_bridges(filled(np.inf), "alignment"), ["no finite numbers"], "finite"),
        ("a map of True", lambda: choose_bridges(heat() > 0.1, "alignment"), ["no finite numbers"], "type", ValueError),
        ("an array", lambda: choose_bridges(array(), "alignment"), ["needs a layer map"], "type", ValueError),
        ("a rule near a known one", lambda: choose_bridges(heat(), "alignmnt"), ["nearest is 'alignment'"], "name"),
        ("a list as a rule", lambda: choose_bridges(heat(), ["early"]), ["unknown rule"], "name"),
        ("no bridges", lambda: choose_bridges(heat(), "alignment", 0), ["bridges is 0"], "range"),
        ("half a bridge", lambda: choose_bridges(heat(), "alignment", 1.5), ["bridges is 1.5"], "type"),
        (
            "bridges beyond the blocks",
            lambda: choose_bridges(heat(), "alignment", 9),
            ["from 1 to 2", "got 9"],
            "range",
        ),
        ("one depth", lambda: choose_bridges(layers=3), ["layers is 3", "a sequence of 2"], "type"),
        ("depths below 0", lambda: choose_bridges(layers=(-1, 2)), ["layers is (-1, 2)"], "range"),
        ("endless depths", lambda: choose_bridges(layers=(10**30, 4)), ["layers is"], "range"),
        ("no depths", lambda: choose_bridges(), ["depths are unknown", "layers="], "missing"),
        ("a seed below 0", lambda: choose_bridges(rule="random", layers=(4, 4), seed=-1), ["seed is -1"], "range"),
        ("an unknown stream", lambda: choose_bridges(layers=(4, 4), stream="imag"), ["nearest is 'image'"], "name"),
        ("an unknown field", lambda: choose_bridges(layers=(4, 4), rnk=3), ["nearest is 'rank'"], "name"),
        ("a budget without a count", lambda: choose_bridges(layers=(4, 4), parameters=9), ["pass count"], "conflict"),
        ("too few draws", lambda: choose_bridges(heat(), "alignment", 1, draws=3), ["draws is 3", "200"], "range"),
        ("draws without features", lambda: choose_bridges(heat(), "alignment", 1, draws=20), ["features="], "missing"),
        ("links of texts", lambda: choose_bridges(LINKS, "causal", 1, layers=(2, 2)), ["'understanding'"], "content"),
        ("layers of texts", lambda: choose_bridges(CONFLICT, "gradient_conflict", 1), ["block numbers"], "content"),
    ),
    *rows_of(
        "score_plan",
        ("a path", lambda: score_plan(plan_file(), heat()), ["plan is", "BridgePlan.load"], "type"),
        ("a rule without a score", lambda: score_plan(plan(), heat(), "middle"), ["unknown rule 'middle'"], "name"),
        ("nothing", lambda: score_plan(plan(), None), ["needs a layer map"], "type", ValueError),
    ),
    *rows_of(
        "lay_out",
        ("a layout near a known one", lambda: lay_out("desne", 4, 4), ["nearest is 'dense'"], "name"),
        ("no blocks", lambda: lay_out("H", 0, 4), ["understanding_layers is 0"], "range"),
        ("half a block", lambda: lay_out("H", 4, 1.5), ["generation_layers is 1.5"], "type"),
        ("endless blocks", lambda: lay_out("H", 10**30, 4), ["understanding_layers is"], "range"),
        ("an unknown matching", lambda: lay_out("H", 4, 4, matching="prelud"), ["nearest is 'prelude'"], "name"),
        ("a matching without a map", lambda: lay_out("H", 4, 4, matching="optimal"), ["heat="], "missing"),
        ("a map that is not read", lambda: lay_out("H", 2, 2, heat=heat()), ["heat is the map", "leave"], "conflict"),
        ("a fork of True", lambda: lay_out("Y", 4, 4, fork=True), ["fork is True"], "type"),
        ("a fork of another layout", lambda: lay_out("H", 4, 4, fork=2), ["takes no fork"], "conflict"),
        ("ends of one number", lambda: lay_out("X", 4, 4, ends=(1,)), ["ends is (1,)", "of 2"], "type"),
    ),
    *rows_of(
        "published_taps",
        ("no blocks", lambda: published_taps("FLUX.2", 0, 4), ["understanding_layers is 0"], "range"),
        ("a depth of NaN", lambda: published_taps("FLUX.2", 4, 4, np.nan), ["depth is nan"], "type"),
        ("a depth too small", lambda: published_taps("FLUX.2", 4, 4, 3), ["FLUX.2 reads hidden state"], "range"),
    ),
]
