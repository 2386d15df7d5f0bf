"""Curves say what was measured, and shape tests and divergence depth answer rightly on curves whose answer is known."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from bridgework.probes.curves import curve as curves
from bridgework.probes.curves.curve import alignment_curve
from bridgework.probes.curves.divergence_depth import divergence
from bridgework.probes.curves.shapes import rises, rises_then_falls
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.similarity.intervals import curve_draws
from bridgework.probes.similarity.scoring import similarity
from bridgework.studies.claims.trunk_curves import PUBLISHED

UNIFORK = pd.read_csv(PUBLISHED)
COLUMNS = (
    "subject modality task pass timestep pooling layer depth reference reference_modality reference_layer metric k "
    "samples score low high chance null_mean null95 p"
)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def features(values, modality: str, layers: int | None = None, **changes) -> LayerFeatures:
    """The features of a subject of so many blocks, of which the first ones are given."""
    tensor = torch.as_tensor(np.asarray(values), dtype=torch.float32)
    blocks = layers or tensor.shape[-3] - 1
    fields = {
        "values": tensor,
        "layers": ("embeddings", *map(str, range(tensor.shape[-3] - 1))),
        "depths": tuple(i / blocks for i in range(tensor.shape[-3])),
        "modality": modality,
        "subject": "expert",
        "task": "understanding",
        "pass_": "separate",
        "pooling": "mean",
        "timesteps": (0.2, 0.5, 0.8)[: tensor.shape[0]] if tensor.ndim == 4 else (),
        "samples": tuple(f"s{i}" for i in range(tensor.shape[-2])),
    }
    return LayerFeatures(**(fields | changes))


def two_modalities(strengths, samples: int = 60, seed: int = 0, **changes) -> tuple[LayerFeatures, LayerFeatures]:
    """Image and text features whose common part has the given strength at each layer."""
    g = rng(seed)
    common, noise = g.standard_normal((samples, 6)), g.standard_normal((2, len(strengths), samples, 6))
    image, text = ([s * common + noise[side, i] for i, s in enumerate(strengths)] for side in (0, 1))
    return features(image, "image", **changes), features(text, "text", **changes)


def curve_of(scores, width: float = 0.004, seed: int = 0, subject: str = "expert", depths=None) -> pd.DataFrame:
    """A curve with these scores, and draws of that standard deviation around them."""
    scores = np.asarray(scores, float)
    draws = scores[:, None] + width * rng(seed).standard_normal((len(scores), 200))
    depths = np.linspace(0, 1, len(scores)) if depths is None else depths
    columns = {"subject": subject, "layer": [*map(str, range(len(scores)))], "depth": depths, "score": scores}
    columns |= {"metric": "mutual_knn", "k": 10, "samples": 100, "pairing": "one", "draws": draws.tolist()}
    return pd.DataFrame(columns)


def published(model: str, task: str) -> pd.DataFrame:
    rows = UNIFORK[(UNIFORK["model"] == model) & (UNIFORK["task"] == task)]
    last = UNIFORK[UNIFORK["model"] == model]["layer"].max()
    curve = curve_of(rows["score"], 0.002, len(model), model, ((rows["layer"] - 1) / (last - 1)).to_numpy())
    return curve.assign(layer=rows["layer"].astype(str).to_numpy())


@pytest.fixture
def few_splits(monkeypatch):
    """Intervals from 10 splits instead of 100, for tests of everything but their width."""
    monkeypatch.setattr(curves, "curve_draws", partial(curve_draws, splits=10))


@pytest.mark.usefixtures("few_splits")
def test_curve_says_what_was_measured():
    image, text = two_modalities([0, 1, 3], pass_="joint")
    curve = alignment_curve(image, text, k=5, permutations=19)
    assert curve.columns.tolist() == [*COLUMNS.split(), "pairing", "draws"]
    assert curve["layer"].tolist() == ["embeddings", "0", "1"]
    assert curve["depth"].tolist() == [0, 0.5, 1]
    first = curve.iloc[0]
    assert first[["subject", "task", "pass", "pooling", "metric"]].tolist() == [
        "expert", "understanding", "joint", "mean", "mutual_knn",
    ]  # fmt: skip
    assert (first["k"], first["samples"], first["chance"]) == (5, 60, 5 / 59)
    assert curve["timestep"].isna().all()
    for index, score in enumerate(curve["score"]):
        assert score == pytest.approx(similarity(image.values[index], text.values[index], "mutual_knn", 5))
    assert (curve["low"] < curve["score"]).all()
    assert (curve["score"] < curve["high"]).all()
    assert curve["p"].iloc[2] == pytest.approx(1 / 20)
    assert curve["score"].iloc[2] > curve["null95"].iloc[2] > curve["null_mean"].iloc[2]
    assert curve["null_mean"].iloc[0] == pytest.approx(5 / 59, abs=0.03)
    assert curve.attrs["peak_p"] == pytest.approx(1 / 20)
    pd.testing.assert_frame_equal(curve, alignment_curve(image, text, k=5, permutations=19))


@pytest.mark.usefixtures("few_splits")
def test_cka_has_no_k():
    curve = alignment_curve(*two_modalities([0, 1]), metric="cka", permutations=9)
    assert curve["k"].isna().all()
    assert (curve["chance"] == 0).all()


@pytest.mark.usefixtures("few_splits")
def test_layers_are_matched_by_name():
    image, text = two_modalities([0, 1, 3, 3])
    short = features(text.values[:3], "text", layers=3)
    curve = alignment_curve(image, short, permutations=5)
    assert curve["layer"].tolist() == ["embeddings", "0", "1"]
    assert curve["depth"].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert alignment_curve(short, image, permutations=5)["score"].tolist() == pytest.approx(curve["score"].tolist())
    with pytest.raises(ValueError, match="no layer in common"):
        alignment_curve(image, replace(text, layers=("a", "b", "c", "d")))


@pytest.mark.usefixtures("few_splits")
def test_sweep_has_a_row_per_timestep_and_layer():
    pairs = [two_modalities([0, 2, 3], seed=s) for s in range(2)]
    image, text = (features(np.stack([p[i].values for p in pairs]), m) for i, m in enumerate(("image", "text")))
    curve = alignment_curve(image, text, permutations=5)
    assert curve["timestep"].tolist() == [0.2] * 3 + [0.5] * 3
    for index, (one, other) in enumerate(pairs):
        single = alignment_curve(one, other, permutations=5)
        assert curve["score"][3 * index : 3 * index + 3].tolist() == pytest.approx(single["score"].tolist())
        assert curve["draws"].iloc[3 * index] == pytest.approx(single["draws"].iloc[0])
    assert alignment_curve(image.at(0.5), text.at(0.5), permutations=5)["timestep"].tolist() == [0.5] * 3
    still = alignment_curve(image, pairs[0][1], permutations=5)
    assert still["score"][:3].tolist() == pytest.approx(curve["score"][:3].tolist())
    with pytest.raises(ValueError, match="more than one curve"):
        rises(curve)
    assert not np.isnan(rises(curve[curve["timestep"] == 0.2]).intervals["spearman"].value)
    with pytest.raises(ValueError, match="extract both in one sweep"):
        alignment_curve(image, features(text.values, "text", timesteps=(0.1, 0.2)))


@pytest.mark.usefixtures("few_splits")
def test_fixed_reference():
    image, text = two_modalities([0, 1, 3])
    curve = alignment_curve(image, text.values[2], permutations=5)
    wanted = [similarity(layer, text.values[2], "mutual_knn") for layer in image.values]
    assert curve["score"].tolist() == pytest.approx(wanted)


@pytest.mark.usefixtures("few_splits")
def test_one_layer_of_another_model_is_compared_with_every_layer():
    image, text = two_modalities([0, 1, 3])
    other = replace(text, subject="other", layers=("embeddings", "0", "12"))
    curve = alignment_curve(image, other.at_layer("last"), permutations=19)
    plain = alignment_curve(image, text.values[2], samples=text.samples, permutations=19)
    assert curve["score"].tolist() == plain["score"].tolist()
    assert curve["layer"].tolist() == list(image.layers)
    named = curve[["subject", "modality", "reference", "reference_modality", "reference_layer"]].drop_duplicates()
    assert named.to_numpy().tolist() == [["expert", "image", "other", "text", "12"]]
    assert (curve.attrs["x"]["subject"], curve.attrs["y"]["subject"]) == ("expert", "other")
    assert plain["reference"].isna().all() and plain.attrs["y"] == {}
    swept = features(np.stack([image.values.numpy()] * 2), "image")
    both = alignment_curve(swept, other.at_layer("12"), permutations=5)
    assert both["timestep"].tolist() == [0.2] * 3 + [0.5] * 3
    noisy = features(np.stack([text.values.numpy()] * 2), "text", subject="other")
    with pytest.raises(ValueError, match=r"y over \(0.2, 0.5\): .* select one of y with .at\(t\)"):
        alignment_curve(image, noisy.at_layer("last"))
    assert alignment_curve(image, noisy.at(0.5).at_layer("last"), permutations=5).attrs["y"]["timestep"] == 0.5


def test_a_reference_of_other_stimuli_is_refused():
    image, text = two_modalities([0, 1, 3])
    other = replace(text, subject="other")
    strangers = replace(other, samples=tuple(f"t{i}" for i in range(60)))
    with pytest.raises(ValueError, match="different stimuli: sample 0 is 's0' in 'expert' but 't0' in 'other'"):
        alignment_curve(image, strangers.at_layer("last"))
    seen, shown = ({sample: f"{i}{side:x<15} {i}{side:y<15}" for i, sample in enumerate(text.samples)} for side in "ab")
    with pytest.raises(ValueError, match="'s0' has another image and another text in 'expert' than in 'other'"):
        alignment_curve(replace(image, digests=seen), replace(other, digests=shown).at_layer("last"))
    with pytest.raises(ValueError, match="x has 60 samples, y has 50"):
        alignment_curve(image, features(text.values[:, :50], "text", subject="other").at_layer("last"))


@pytest.mark.usefixtures("few_splits")
def test_constant_layer_has_no_score_and_is_named():
    image, text = two_modalities([0, 1, 3])
    image.values[1] = 1
    curve = alignment_curve(image, text, permutations=9)
    assert curve[["score", "low", "p"]].isna().all(axis=1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="layer '0' has no score"):
        rises(curve)


def test_curve_survives_files_slicing_and_concat(tmp_path):
    image, text = two_modalities([0, 0.5, 1, 2, 3, 4])
    curve = alignment_curve(image, text, permutations=9)
    wanted = rises(curve)
    assert wanted.holds
    curve.to_parquet(tmp_path / "curve.parquet")
    both = pd.concat([curve, curve.assign(subject="other")])
    for copy in (
        pd.read_parquet(tmp_path / "curve.parquet"),
        pd.read_csv(io.StringIO(curve.to_csv(index=False, columns=list(curve)))),
        both[both["subject"] == "other"],
        curve.iloc[::-1],
    ):
        found = rises(copy)
        assert found.holds
        assert found.intervals["spearman"] == pytest.approx(wanted.intervals["spearman"])
        assert divergence(curve, copy.assign(subject="expert")).kind == "split"


def test_csv_and_html_leave_the_draws_out():
    image, text = two_modalities([0, 0.5, 1])
    curve = alignment_curve(image, text, permutations=9)
    part = pd.concat([curve, curve.assign(subject="other")]).iloc[2:]
    for table in (curve, part):
        assert "draws" in table
        for written in (table.to_csv(), table.to_html(), table._repr_html_()):
            assert "draws" not in written and "null95" in written
    assert len(curve.to_csv(index=False)) < 400 * len(curve)
    assert "draws" not in curve.drop(columns="draws").to_csv()
    with pytest.raises(ValueError, match="curve has no draws, which its CSV file leaves out"):
        rises(pd.read_csv(io.StringIO(curve.to_csv(index=False))))


def test_published_shapes():
    llava, llamagen = published("LLaVA-1.5", "understanding"), published("LlamaGen", "generation")
    assert rises(llava).holds
    assert not rises_then_falls(llava).holds
    assert not rises(llamagen).holds
    shape = rises_then_falls(llamagen)
    assert shape.holds
    assert shape.intervals["peak minus first"].value == pytest.approx(0.0814 - 0.0508)
    assert shape.intervals["peak minus last"].value == pytest.approx(0.0814 - 0.0625)
    apart = divergence(llava, llamagen)
    assert apart.kind == "peak"
    measured = llamagen.iloc[0]
    assert (apart.metric, apart.samples, apart.timestep) == (measured["metric"], measured["samples"], None)
    assert apart.depth == pytest.approx(16 / 36)
    assert apart.depth and apart.low and apart.high
    assert 0.3 < apart.low <= apart.depth <= apart.high < 0.6


def test_published_split_of_two_fine_tunings():
    chat, gen = published("Emu3-Chat", "understanding"), published("Emu3-Gen", "generation")
    apart = divergence(chat, gen, kind="split")
    assert apart.depth == pytest.approx((11 - 1) / 32)
    assert apart.depth and apart.low and apart.high
    assert apart.low <= apart.depth <= apart.high < 0.5
    assert "understanding aligns more" in apart.reason


def test_split_needs_the_gap_to_last_on_one_side():
    base = np.full(12, 0.2)
    late, gone, crossing = base.copy(), base.copy(), base.copy()
    late[7:] += 0.05
    gone[4:9] += 0.05
    crossing[3:] += 0.05
    crossing[8:] -= 0.1
    curve = curve_of(base, seed=1)
    assert divergence(curve, curve_of(late, seed=2)).depth == pytest.approx(7 / 11)
    assert divergence(curve, curve_of(gone, seed=2)).depth is None
    assert divergence(curve, curve_of(crossing, seed=2)).depth == pytest.approx(8 / 11)
    assert divergence(curve, curve_of(base + 0.05, seed=2)).depth == 0
    none = divergence(curve, curve_of(base, seed=2))
    assert (none.depth, none.low, none.high) == (None, None, None)


def test_split_interval_is_paired():
    # noise that both curves share drops out of the difference
    late = np.full(12, 0.2)
    late[6:] += 0.01
    first, second = curve_of(np.full(12, 0.2), 0.05, seed=1), curve_of(late, 0.05, seed=1)
    assert divergence(first, second).depth == pytest.approx(6 / 11)
    assert divergence(first, curve_of(late, 0.05, seed=2)).depth is None


def test_peak_needs_understanding_to_rise_after_it():
    hill = 0.2 - 0.2 * (np.linspace(0, 1, 12) - 0.45) ** 2
    rising = np.linspace(0.1, 0.3, 12)
    apart = divergence(curve_of(rising, subject="a"), curve_of(hill, subject="b"))
    assert apart.depth == pytest.approx(5 / 11)
    early = np.minimum(rising, rising[5])[::1] - np.r_[np.zeros(6), np.linspace(0.01, 0.06, 6)]
    for flat in (rising[::-1], early):
        found = divergence(curve_of(flat, subject="a"), curve_of(hill, subject="b"))
        assert found.depth is None
        assert "does not rise" in found.reason
    assert divergence(curve_of(rising, subject="a"), curve_of(rising, subject="b")).depth is None


def test_flat_curves_have_no_shape():
    # noise as large as the draws say: a test at 95 % may be fooled now and then, not often
    fooled = np.zeros(3)
    for seed in range(120):
        ours, theirs = (0.2 + 0.01 * rng([seed, i]).standard_normal(13) for i in range(2))  # type: ignore[arg-type]
        curves = curve_of(ours, 0.01, 1000 + seed), curve_of(theirs, 0.01, 2000 + seed)
        fooled += [rises(curves[0]).holds, rises_then_falls(curves[0]).holds, divergence(*curves).depth is not None]
    assert (fooled / 120 <= 0.1).all(), fooled


def test_shapes_of_measured_curves():
    up = alignment_curve(*two_modalities([0, 0.3, 0.6, 0.9, 1.3, 1.8, 2.4, 3]), permutations=5)
    hill = alignment_curve(*two_modalities([0, 0.5, 1, 2, 3, 2, 1, 0], task="generation"), permutations=5)
    assert rises(up).holds
    assert not rises_then_falls(up).holds
    assert rises_then_falls(hill).holds
    assert not rises(hill).holds
    assert divergence(up, hill, kind="peak").depth == pytest.approx(4 / 7)
    late = divergence(hill, up, kind="peak")
    assert late.depth is None and late.reason.endswith("fewer than three layers: too few to say whether it rises")
    split = divergence(up, hill)
    assert split.kind == "split"
    assert split.depth is not None
    assert split.depth > 4 / 7


def test_bad_input_is_named():
    image, text = two_modalities([0, 1, 2])
    curve = curve_of([0.1, 0.2, 0.3])
    nan = features(text.values.clone(), "text")
    nan.values[1, 3] = float("nan")
    ids = tuple(reversed(text.samples))
    for bad, message in [
        (
            lambda: alignment_curve(image, features(text.values, "text", subject="b")),
            r"'b' \(understanding, text\).*y.at_layer\('last'\), .*similarity_map. y has embeddings, 0, 1",
        ),
        (lambda: alignment_curve(image, features(text.values, "text", task="generation")), r"'expert' \(generation, "),
        (
            lambda: alignment_curve(image, features(text.values, "text", pass_="joint")),
            "separate pass and y of a joint",
        ),
        (lambda: alignment_curve(image, features(text.values, "text", samples=ids)), "different stimuli: sample 0"),
        (lambda: alignment_curve(image, features(text.values[:, :50], "text")), "x has 60 samples, y has 50"),
        (lambda: alignment_curve(image, nan), "layer '0' of text features of 'expert' holds NaN"),
        (lambda: alignment_curve(image, text, metric="ckaa"), "unknown metric 'ckaa'"),
        (lambda: alignment_curve(image, text, k=60), "k must be an integer from 1 to samples - 1 = 59"),
        (lambda: alignment_curve(image, text, permutations=0), "permutations is 0: expected a whole number from 1"),
        (lambda: alignment_curve(image, text.values), r"\(sample, dim\) reference, got shape \(3, 60, 6\)"),
        (lambda: alignment_curve(image, text.values[0, :50]), "x has 60 samples, y has 50"),
        (lambda: rises(curve.drop(columns="draws")), "curve has no draws, which its CSV file leaves out"),
        (lambda: rises(curve.iloc[:0]), "no rows"),
        (lambda: divergence(curve, curve.assign(pairing="two")), "differ in pairing .one and two."),
        (lambda: divergence(curve, curve.assign(k=5)), "differ in k"),
        (
            lambda: divergence(curve, curve.assign(samples=9), kind="peak"),
            "differ in samples .* no curves of one measure",
        ),
        (lambda: divergence(curve, curve.assign(metric="cka"), kind="peak"), "differ in metric"),
        (lambda: divergence(curve, curve.assign(layer=["a", "b", "c"])), "no layer in common"),
        (lambda: divergence(curve, curve, kind="best"), "unknown kind 'best': expected one of split"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()
    with pytest.raises(TypeError, match=r"x is tensor.*: expected a LayerFeatures"):
        alignment_curve(image.values, text)
    with pytest.raises(TypeError, match=r"y is .*: expected"):
        alignment_curve(image, Features({"text": text}))
