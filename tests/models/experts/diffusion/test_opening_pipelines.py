"""Every example of docs/diffusion.md, run on a local pipeline of its class, and what is refused when one is opened."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler
from safetensors.torch import load_file, save_file

from bridgework.models.experts.diffusion.opening_pipelines import is_pipeline, open_pipeline, pipeline_expert
from bridgework.models.experts.diffusion.pipeline_expert import PipelineExpert
from bridgework.models.experts.opening import open_expert
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.tests.models.tiny_pipelines import SIDES, TINY

DOCS = Path(__file__).parents[4] / "docs" / "diffusion.md"
EXAMPLES = dict(re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL))
PROBE = EXAMPLES.pop("probe")
HUB_ID = re.compile(r'open_expert\("([\w.-]+/[\w.-]+)"\)')


@pytest.fixture(scope="module")
def folders(pipeline_folder) -> dict[str, tuple[str, Path]]:
    """Each pipeline class: our name of it and a folder."""
    found = {}
    for family in TINY:
        folder = pipeline_folder(family)
        found[json.loads((folder / "model_index.json").read_text())["_class_name"]] = family, folder
    return found


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """A copy of SD 3.5's to damage."""
    return shutil.copytree(folders["StableDiffusion3Pipeline"][1], tmp_path / "sd3")


@pytest.fixture(scope="module")
def stimuli():
    return scene_stimuli("train", 2)


def test_every_family_has_an_example(folders):
    assert set(EXAMPLES) == set(folders)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_example(kind, folders, stimuli):
    family, folder = folders[kind]
    code, count = HUB_ID.subn(f'open_pipeline(r"{folder}", side={SIDES.get(family, 32)})', EXAMPLES[kind])
    assert count == 1
    space: dict[str, Any] = {"open_pipeline": open_pipeline, "extract": extract, "stimuli": stimuli}
    exec(code if "extract" in code else code + PROBE, space)
    expert = space["expert"]
    generation, *understanding = (value for value in space.values() if isinstance(value, Features))
    assert generation["image"].timesteps == (0.2, 0.5, 0.8)
    assert generation["image"].samples == tuple(s.id for s in stimuli)
    for modality in expert.modalities:
        states = generation[modality]
        widths = [states.values] if isinstance(states.values, torch.Tensor) else list(states.values)
        assert all(torch.isfinite(value).all() for value in widths)
    if kind == "Cosmos3OmniPipeline":
        assert [features["text"].values.shape for features in understanding] == [(4, 2, 16)]


def test_a_pipeline_whose_prompts_change_each_other_is_refused_in_batches(folders, stimuli):
    expert = open_pipeline(folders["CogView4Pipeline"][1], side=32)
    with pytest.raises(RuntimeError, match=r"the batch changes it: .* batch_size=1 shows every stimulus alone"):
        extract(expert, stimuli, timesteps=(0.5,))


def test_a_twin_has_another_denoiser_and_the_same_eyes(folder):
    learnt, twin, same, other = (
        open_pipeline(folder, side=16, **options)
        for options in ({}, {"random_weights": True}, {"random_weights": True}, {"random_weights": True, "seed": 1})
    )
    assert twin.name == "sd3 (random weights)"
    weights = [expert.model.transformer_blocks[0].attn.to_q.weight for expert in (learnt, twin, same, other)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[3])
    for part in ("text_encoder", "text_encoder_3", "vae"):
        own, drawn = (getattr(expert.pipe, part).state_dict() for expert in (learnt, twin))
        assert all(torch.equal(own[key], drawn[key]) for key in own)


def test_open_expert_opens_pipelines(folder):
    expert = open_expert(folder)
    assert isinstance(expert, PipelineExpert)
    assert expert.name == "sd3"
    assert open_expert(folder, random_weights=True).name == "sd3 (random weights)"


def test_pipelines_are_told_from_other_folders(folder):
    assert is_pipeline(str(folder))
    assert not is_pipeline(str(folder / "transformer"))
    assert not is_pipeline("nobody/nothing")


def test_pickles_are_refused(folder):
    for file in (folder / "transformer").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match="nothing is unpickled here"):
        open_pipeline(folder)


def test_missing_tensors_are_refused(folder):
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop("transformer_blocks.0.attn.to_q.weight")
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"lack 'transformer_blocks\.0\.attn\.to_q\.weight'"):
        open_pipeline(folder)


@pytest.mark.parametrize("change", [{"_class_name": "MyPipeline"}, {"transformer": ["my_code", "MyTransformer"]}])
def test_code_that_comes_with_weights_is_not_run(folder, change):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | change))
    (folder / "my_code.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match=r"does not have: code that comes with weights is not run"):
        open_pipeline(folder)


def test_what_is_no_denoising_pipeline_is_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"transformer": [None, None]}))
    with pytest.raises(ValueError, match="neither a transformer nor a unet"):
        open_pipeline(folder)
    with pytest.raises(ValueError, match=r"model_index\.json of expert .* cannot be read"):
        open_pipeline(folder / "vae")


def test_a_schedule_that_is_not_known_is_refused(folder):
    pipe = open_pipeline(folder, side=16).pipe
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(ValueError, match="EDMEulerScheduler is neither flow matching nor variance preserving"):
        pipeline_expert(pipe, "edm", 16)
