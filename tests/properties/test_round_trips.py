"""What is written and read again is what it was: stores, maps, curves and plans of any content."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgework.probes import BridgePlan, Features, LayerFeatures
from bridgework.probes.curves.curve_table import CurveTable
from bridgework.probes.files import write_csv, write_parquet
from bridgework.probes.plans.evidence_files import read_evidence
from bridgework.tests.properties.settings import QUICK

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
FORMATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@settings(QUICK)
@given(
    st.lists(WORDS, min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
    st.integers(1, 4),
    FORMATS,
    st.dictionaries(WORDS, PLAIN, max_size=2),
)
def test_a_store_holds_the_same_bits(ids, layers, dims, dtype, provenance):
    values = torch.randn(layers, len(ids), dims).to(dtype)
    names = tuple(map(str, range(layers)))
    depths = tuple((number + 1) / layers for number in range(layers))
    labels = ("text", "toy", "understanding", "separate", "mean", (), tuple(ids))
    with tempfile.TemporaryDirectory() as folder:
        Features({"text": LayerFeatures(values, names, depths, *labels)}, provenance).save(folder)
        part = Features.load(folder)["text"]
        assert torch.equal(part.values.view(torch.uint8), values.view(torch.uint8))
        assert (part.layers, part.depths, part.samples) == (names, depths, tuple(ids))


@settings(QUICK)
@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.dictionaries(WORDS, PLAIN, max_size=3))
def test_a_plan_is_the_same(data, understanding, generation, evidence):
    count = data.draw(st.integers(1, min(understanding, generation)))
    sides = [
        sorted(data.draw(st.sets(st.integers(0, blocks - 1), min_size=count, max_size=count)))
        for blocks in (understanding, generation)
    ]
    pairs = tuple(zip(*sides, strict=True))
    plan = BridgePlan(
        pairs, "image", "by hand", evidence, understanding, generation, rank=data.draw(st.sampled_from([None, 4]))
    )
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder) / "plan.json")
        assert BridgePlan.load(Path(folder) / "plan.json") == plan


@settings(QUICK)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_a_map_is_the_same(rows, columns, seed):
    values = np.random.default_rng(seed).standard_normal((rows, columns))
    heat = pd.DataFrame(
        values,
        pd.Index([str(row) for row in range(rows)], name="understanding layer"),
        pd.Index([str(column) for column in range(columns)], name="generation layer"),
    )
    heat.attrs = {"metric": "cka", "x_depths": [1.0] * rows, "y_depths": [1.0] * columns}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "map.csv", heat, index=True)
        (folder / "map.json").write_text(json.dumps(heat.attrs), encoding="utf-8")
        read = read_evidence(folder / "map.csv")
        assert np.array_equal(read.to_numpy(float), values)
        assert read.attrs == heat.attrs


@settings(QUICK)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 2**32), WORDS)
def test_a_curve_keeps_its_draws_in_parquet(layers, draws, seed, subject):
    rng = np.random.default_rng(seed)
    curve = CurveTable({"subject": subject, "score": rng.random(layers), "draws": rng.random((layers, draws)).tolist()})
    curve.attrs = {"x": {"subject": subject}, "peak_p": 0.1}
    with tempfile.TemporaryDirectory() as folder:
        write_parquet(Path(folder) / "curve.parquet", curve)
        read = pd.read_parquet(Path(folder) / "curve.parquet")
        assert np.array_equal(np.stack(read["draws"]), np.stack(curve["draws"]))
        assert read["score"].equals(pd.Series(curve["score"])) and list(read["subject"]) == list(curve["subject"])
        assert read.attrs == curve.attrs
