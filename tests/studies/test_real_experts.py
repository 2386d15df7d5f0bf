"""What is measured on the real experts, on features with a planted signal; and that the committed results are whole."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from bridgework.probes import load_stimuli
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.studies import real_experts
from bridgework.studies.settings import RESULTS

LAYERS, ANCHOR, READ = 4, 4, 2  # blocks, and the places that show the latent: block 3 of the images, 1 of the texts
NOTO = load_stimuli("noto", limit=40)


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    """Every sample has a latent. Block 3 of the images and block 1 of the texts show it; all else is noise."""

    def extracted(folder, subject, stimuli, special=False, cleaned=False, sinks=False):
        generator = torch.Generator().manual_seed(len(subject.name) + 100 * special)
        values = torch.randn(LAYERS + 1, len(stimuli), 16, generator=generator)
        latent = torch.randn(len(stimuli), 16, generator=torch.Generator().manual_seed(0))
        if "random" not in subject.name:
            image = subject.name == real_experts.SEER
            values[ANCHOR if image else READ] = latent + 0.1 * values[0]
            if not image:
                values[-1] = latent + 0.1 * values[1]

        def part(modality, pooling, cleaned=None):
            return LayerFeatures(
                values,
                layers=("embeddings", *map(str, range(LAYERS))),
                depths=tuple(i / LAYERS for i in range(LAYERS + 1)),
                modality=modality,
                subject=subject.name,
                task="understanding",
                pass_="separate",
                pooling=pooling,
                timesteps=(),
                samples=tuple(s.id for s in stimuli),
                cleaned=cleaned,
            )

        pooling = "mean" + " + special" * special + " + sinks" * sinks
        return {m: part(m, pooling, part(m, f"{pooling} + cleaned") if cleaned else None) for m in ("image", "text")}

    def opened(name, random_weights=False, front="<end>"):
        def show(stimuli, *_):
            words = torch.arange(8) < torch.tensor([[len(s.text.split())] for s in stimuli])
            return SimpleNamespace(tokens={"text": words})

        reads = SimpleNamespace(bos_token="<begin>")
        name += " (random weights)" * random_weights
        return SimpleNamespace(name=name, show=show, front=front, tokenizer=reads)

    monkeypatch.setattr(real_experts, "ANCHOR", ANCHOR)
    monkeypatch.setattr(real_experts, "extract_cached", extracted)
    monkeypatch.setattr(real_experts, "open_expert", opened)


def test_image_curves_peak_where_the_signal_is_and_the_twin_does_not(tmp_path):
    curves = real_experts.image_curves(tmp_path, NOTO)
    assert set(curves["set"]) == {"noto"} and set(curves["metric"]) == {"mutual_knn", "cka"}
    assert set(curves["subject"]) == {f"dinov2-s x {reader}" for reader in real_experts.READERS}
    for (_, _, control), curve in curves.groupby(["subject", "metric", "control"]):
        assert len(curve) == LAYERS + 1
        best = curve.loc[curve["score"].idxmax()]
        assert (best["layer"] == "3" and best["score"] > 0.5) == (control == "none")


def test_real_parquet_is_written_once(tmp_path):
    real_experts.measure_real(tmp_path, samples=24)
    first = (tmp_path / "real.parquet").stat()
    curves = pd.read_parquet(tmp_path / "real.parquet")
    assert (curves["samples"] == 24).all() and set(curves["metric"]) == {"mutual_knn"} and "set" not in curves
    real_experts.measure_real(tmp_path, samples=24)
    assert (tmp_path / "real.parquet").stat() == first


def test_sink_curves_pool_behind_each_token_against_the_anchor_and_the_other_reader(tmp_path):
    curves = real_experts.sink_curves(tmp_path, NOTO)
    weights = curves[curves["pooling"] == "weight"]
    assert len(weights) == 2 and (weights["metric"] == "cka").all() and (weights["p"] > 0.01).all()
    curves = curves.dropna(subset="layer")
    fronts = curves.groupby("front")["pooling"].unique().map(set).to_dict()
    assert fronts.pop("<end>") == {"mean", "mean + cleaned", "mean + special", "mean + special + cleaned"}
    assert fronts == {"<begin>": {"mean + sinks"}, "none": {"mean + sinks"}}
    assert set(curves["against"]) == {"dinov2-s", "minilm-l6"}
    best = curves.loc[curves.groupby(["front", "pooling", "against", "metric"])["score"].idxmax()]
    assert len(best) == 24 and set(best["layer"]) <= {"1", "3"} and (best["p"] < 0.01).all()


def test_map_peaks_find_the_planted_pair(tmp_path):
    table = real_experts.map_peaks(tmp_path, NOTO).set_index(["control", "reader", "metric"])
    found = table.loc["none"]
    assert (found["image"] == "3").all() and found["text"].isin(["1", "3"]).all()
    assert (found["p"] < 0.01).all() and (found["score"] > found["peak95"]).all()
    assert (table.loc["random weights"]["p"] > 0.01).all()
    assert list(found.xs("cka", level="metric")["k"].isna()) == [True, True]


def test_style_curves_compare_a_layer_with_itself(tmp_path):
    curves = real_experts.style_curves(tmp_path, NOTO, NOTO)
    assert (curves["score"] > 0.999).all() and set(curves["control"]) == {"none", "random weights"}


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "real_curves.parquet")


def test_committed_curves_are_whole(committed):
    alike = committed[committed["samples"] == real_experts.SAMPLES]
    assert set(alike["set"]) == {*real_experts.SETS, "noto x fluent"}
    assert set(committed["samples"]) == {real_experts.SAMPLES, 1392}
    lines = alike.groupby(["set", "subject", "metric", "control"])
    assert len(lines) == 4 * 2 * 2 * 2 + 2 * 2 and (lines.size() == 13).all()


def test_committed_files_carry_no_unlabelled_number():
    sink, maps = pd.read_parquet(RESULTS / "real_sink.parquet"), pd.read_csv(RESULTS / "real_maps.csv")
    assert set(sink["set"]) == set(maps["set"]) == set(real_experts.SETS)
    assert (sink["samples"] == real_experts.SAMPLES).all() and (maps["samples"] == real_experts.SAMPLES).all()
    assert len(maps) == 4 * 2 * 2 * 2 and len(sink) == 4 * (6 * 2 * 2 * 31 + 2)
