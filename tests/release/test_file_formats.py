"""Files that earlier versions wrote are read, and files of a newer format are refused with one sentence.

`tests/data/format_1` holds what the first formats were: small files of version 0.1.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bridgework.models.experts.opening import CHECKPOINTS
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.training.recipe import Recipe
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.probes.features.features import Features
from bridgework.probes.file_formats import NEWEST, read_json, with_format
from bridgework.probes.files import write_json
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.evidence_files import read_evidence
from bridgework.probes.tensor_files import read_tensors, sealed, with_seal
from bridgework.studies.alignment_curves import read_map
from bridgework.tests.models.conftest import build_dit, build_vlm
from bridgework.tests.probes.toys import TEXTS, letters, open_toy

OLD = Path(__file__).parents[1] / "data" / "format_1"
NEWER = (
    r"of format 99, and this version of bridgework reads 1 to \d: open it with the version that wrote it, or install"
)


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the files of the first formats, to change them."""
    return shutil.copytree(OLD, tmp_path / "old")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINTS / "scenes-vlm")


def test_examples_are_small():
    assert all(file.stat().st_size < 6000 for file in OLD.rglob("*") if file.is_file())


def test_a_plan_of_the_first_format_is_read_and_written_in_the_newest(old):
    plan = BridgePlan.load(old / "plan.json")
    assert plan.pairs == ((0, 0), (2, 1)) and plan.rank == 2 and plan.evidence == {"metric": "mutual_knn"}
    plan.save(old / "again.json")
    assert json.loads((old / "again.json").read_text())["format"] == NEWEST["bridge plan"] == 2
    assert BridgePlan.load(old / "again.json") == plan


def test_a_map_of_the_first_format_is_read(old):
    heat = read_evidence(old / "map.csv")
    assert heat.shape == (3, 3) and heat.attrs["metric"] == "mutual_knn" and "format" not in heat.attrs
    assert read_map(old).attrs == heat.attrs
    about = json.loads((old / "map.json").read_text())
    (old / "map.json").write_text(json.dumps(with_format("layer map", about)))
    assert read_map(old).attrs == read_evidence(old / "map.csv").attrs == heat.attrs


def test_a_recipe_of_either_format_is_read(old):
    recipe = Recipe.load(old / "recipe.yaml")
    assert recipe.layout == "H" and recipe.steps == 600
    (old / "recipe.yaml").write_text((old / "recipe.yaml").read_text() + f"format: {NEWEST['recipe']}\n")
    assert Recipe.load(old / "recipe.yaml") == recipe
    write_json(old / "recipe.json", with_seal(with_format("recipe", asdict(recipe))))  # as a run leaves it
    assert Recipe.load(old / "recipe.json") == recipe


def test_a_store_of_the_first_format_is_read():
    with pytest.warns(UserWarning, match="was written before stores held hashes"):
        seen = Features.load(OLD / "store")
    from bridgework.probes.extraction.extracting import extract

    now = extract(open_toy(), letters(*TEXTS[:3]), dtype=torch.float16)
    assert seen["image"].samples == now["image"].samples
    assert torch.allclose(seen["text"].values, now["text"].values, atol=1e-3)


def test_a_fused_model_of_the_first_format_is_read(tiny_tokenizer, tmp_path):
    experts = build_vlm(tiny_tokenizer), build_dit(tiny_tokenizer)
    with pytest.warns(UserWarning, match="was written before it held hashes, plan and experts"):
        fused = FusedModel.load(OLD / "fused", *experts)
    state, _, _ = read_tensors(OLD / "fused" / "bridges.safetensors")
    assert state and all(torch.equal(tensor, state[name]) for name, tensor in fused._learnt().items())
    fused.save(tmp_path)
    path = tmp_path / "bridges.safetensors"
    tensors, about, _ = read_tensors(path)
    assert about["format"] == NEWEST["fused model"] == 3
    save_file(tensors, path, sealed(tensors, {k: v for k, v in about.items() if k != "format"}))  # format 2
    assert FusedModel.load(tmp_path, *experts).plan == fused.plan
    save_file(tensors, path, sealed(tensors, about | {"format": 99}))
    with pytest.raises(ValueError, match=f"bridges.safetensors is a fused model {NEWER}"):
        FusedModel.load(tmp_path, *experts)


@pytest.mark.parametrize("found", [99, 0, "2", True, None, 1.0])
def test_a_newer_format_is_refused_with_one_sentence(old, found):
    message = NEWER.replace("99", repr(found).replace(".", r"\."))
    for file, kind, load in (
        ("plan.json", "bridge plan", BridgePlan.load),
        ("recipe.json", "recipe", Recipe.load),
        ("map.json", "layer map", lambda path: read_map(path.parent)),
        ("unified.json", "unified model", lambda path: read_json("unified model", path)),
    ):
        about = json.loads((old / file).read_text()) if (old / file).is_file() else {}
        (old / file).write_text(json.dumps(about | {"format": found}))
        with pytest.raises(ValueError, match=f"{file} is a {kind} {message}") as raised:
            load(old / file)
        assert "\n" not in str(raised.value)


def test_a_unified_model_of_a_newer_format_is_refused_before_it_is_built(old):
    (old / "unified.json").write_text(json.dumps({"format": 99, "objective": "flow"}))
    for name in ("unified.safetensors", "config.json"):
        (old / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"unified.json is a unified model {NEWER}"):
        UnifiedModel.load(old)
