"""Pipelines as generators: they predict, pack, encode and decode as they do themselves, and learn when fused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bridgework.models.experts.diffusion.latent_generator import LatentGenerator
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.generation.sampling import generate
from bridgework.models.training import batches
from bridgework.probes.plans.layouts import lay_out
from bridgework.tests.models.conftest import build_vlm

FAMILIES = ("SD 3.5", "Flux", "Qwen-Image", "Lumina 2", "Wan")
FUSED = ("SD 3.5", "Wan")
DOCS = Path(__file__).parents[4] / "docs" / "diffusion.md"
CAPTIONS = ["a red dot", "two rings"]


@pytest.fixture(scope="module")
def generator(experts) -> Callable[[str], LatentGenerator]:
    return cache(lambda family: LatentGenerator(experts(family)))


@pytest.fixture
def fuse(generator, tokenizer):
    """Fused models share their pipeline, which nothing trains."""

    def build(family: str, **fields) -> FusedModel:
        generation = generator(family)
        plan = lay_out("H", 4, len(generation.blocks), **fields)
        torch.manual_seed(2)
        return FusedModel(build_vlm(tokenizer), generation, plan)

    return build


def draw(generator: LatentGenerator, prompts: list[str]):
    """Two steps of the pipeline itself: what its scheduler was given at each, as latents, and its images in -1..1."""
    pipe = copy.copy(generator.expert.pipe)
    pipe.scheduler = copy.deepcopy(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    steps, step = [], pipe.scheduler.step

    def unpack(packed):
        rows = packed.flatten(1)
        return torch.empty_like(rows).index_copy(1, generator._order, rows).view(-1, *generator.size)

    def keep(velocity, timestep, sample, *args, **kwargs):
        done = step(velocity, timestep, sample, *args, **kwargs)
        time = float(timestep) / 1000  # not its sigma: UniPC tells the denoiser whole thousandths
        after = done[0] if isinstance(done, tuple) else done.prev_sample
        steps.append(SimpleNamespace(velocity=unpack(velocity), time=time, noisy=unpack(sample), after=unpack(after)))
        return done

    pipe.scheduler.step = keep
    rows, columns = generator.pixels[1:]
    options = {"num_inference_steps": 2, "height": rows, "width": columns, "output_type": "np"}
    options |= {"num_frames": 1} if "Wan" in type(pipe).__name__ else {}
    options |= {"true_cfg_scale" if "Qwen" in type(pipe).__name__ else "guidance_scale": 1.0}
    images = np.stack(pipe(prompt=prompts, generator=torch.Generator().manual_seed(0), **options)[0])
    images = images[:, 0] if images.ndim == 5 else images
    return steps, torch.from_numpy(images).movedim(-1, 1) * 2 - 1


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_predicts_and_decodes_what_the_pipeline_does(generator, family):
    generation = generator(family)
    text = generation.condition(CAPTIONS)
    if "guidance" in text and text["guidance"] is not None:
        text["guidance"] = torch.ones_like(text["guidance"])
    steps, images = draw(generation, CAPTIONS)
    assert len(steps) == 2
    assert steps[1].time < 0.95
    for step in steps:
        clean = generation.predict(step.noisy, text, torch.full((2,), step.time))
        torch.testing.assert_close(clean, step.noisy - step.time * step.velocity, rtol=1e-4, atol=1e-4)
    decoded = generation.decode(steps[-1].after)
    torch.testing.assert_close(decoded.clamp(-1, 1), images, rtol=1e-4, atol=1e-4)
    assert images.std() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_empty_prompt_is_expanded_to_any_batch(generator, family):
    generation = generator(family)
    noisy, time = torch.randn(3, *generation.size), torch.tensor([0.2, 0.5, 0.9])
    clean = generation.predict(noisy, generation.encode([""] * 3), time)
    encoded = generation.predict(noisy, generation.condition([""] * 3), time)
    torch.testing.assert_close(encoded, clean, rtol=1e-4, atol=1e-4)
    for row in range(3):
        alone = generation.predict(noisy[row : row + 1], generation.encode([""]), time[row : row + 1])
        torch.testing.assert_close(alone[0], clean[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_latents_are_those_of_the_images(generator, family):
    generation = generator(family)
    image = torch.rand(2, *generation.pixels) * 2 - 1
    latents = generation.latents(image)
    assert latents.shape == (2, *generation.size)
    assert generation.decode(latents).shape == image.shape
    assert not torch.equal(latents[0], latents[1])


@pytest.mark.parametrize("family", FUSED)
@torch.no_grad()
def test_closed_gates_are_the_empty_prompt(fuse, generator, family):
    fused, generation = fuse(family), generator(family)
    noisy, time = torch.randn(2, *generation.size), torch.tensor([0.3, 0.8])
    untouched = generation.predict(noisy, generation.encode(["", ""]), time)
    assert torch.equal(fused.predict(noisy, fused.condition(CAPTIONS), time), untouched)


@pytest.mark.parametrize("family", FUSED)
def test_a_step_of_training_lets_text_in(fuse, generator, family):
    fused, generation = fuse(family).train(), generator(family)
    rng = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(2, *generation.pixels, generator=rng) for _ in range(2))
    batch = {"image": image, "caption": CAPTIONS, "time": torch.tensor([0.5, 0.9]), "noise": noise}
    optimizer = torch.optim.AdamW([p for p in fused.parameters() if p.requires_grad], 0.05)
    for _ in range(2):  # the gates are opened first
        optimizer.zero_grad()
        loss = fused.loss(batch)
        loss.backward()
        optimizer.step()
    grads = [p.grad.abs().max() for p in fused.bridges.parameters() if p.grad is not None]
    assert len(grads) == len(list(fused.bridges.parameters()))
    assert min(grads) > 0
    assert not any(p.grad is not None for p in generation.model.parameters())
    with torch.no_grad():
        noisy, time = torch.randn(1, *generation.size, generator=rng).expand(2, -1, -1, -1), torch.full((2,), 0.9)
        one, other = fused.predict(noisy, fused.condition(CAPTIONS), time)
    assert (one - other).abs().max() > 1e-5


@pytest.mark.parametrize("family", FUSED)
def test_drawn_latents_are_decoded(fuse, generator, family):
    fused, generation = fuse(family), generator(family)
    images = generate(fused, CAPTIONS, ["a", "b"], steps=2)
    assert [image.size for image in images] == [generation.pixels[:0:-1]] * 2
    assert not np.array_equal(*map(np.asarray, images))


def test_semantic_tokens_enter_where_no_mask_counts_the_text(generator):
    sd3, flux = generator("SD 3.5"), generator("Flux")
    for generation, fits in ((sd3, True), (flux, False)):
        noisy, time, text = torch.randn(1, *generation.size), torch.ones(1), generation.encode([""])
        longer = torch.cat([text, text[:, :2]], 1)
        if fits:
            assert generation.predict(noisy, longer, time).shape == noisy.shape
        else:
            with pytest.raises(ValueError, match="text tokens, but its txt_ids counts"):
                generation.predict(noisy, longer, time)


def test_a_fused_model_makes_the_generator_of_a_pipeline_itself(fuse, experts, tokenizer):
    plain = fuse("SD 3.5")
    again = FusedModel(build_vlm(tokenizer), experts("SD 3.5"), plain.plan)
    assert isinstance(again.experts[1], LatentGenerator) and again.size == plain.size


@pytest.mark.parametrize("family", ["SD 1.5", "CogVideoX"])
def test_other_schedules_are_refused(experts, family):
    with pytest.raises(ValueError, match="not trained by flow matching"):
        LatentGenerator(experts(family))


def test_what_draws_no_batches_is_refused(experts, tiny_dit):
    for other in (experts("Cosmos3"), tiny_dit):
        with pytest.raises(TypeError, match="expected a diffusers pipeline"):
            LatentGenerator(other)


def test_the_documented_example(generator, tokenizer, stimuli, tmp_path, monkeypatch):
    section = DOCS.read_text(encoding="utf-8").split("## As the generator of a fused model")[1]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    experts: dict[str, Any] = {"Qwen/Qwen2.5-VL-7B-Instruct": build_vlm(tokenizer)}
    experts["stabilityai/stable-diffusion-3.5-medium"] = generator("SD 3.5").expert
    monkeypatch.setattr(batches, "stimuli_of_part", lambda given, part: given)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"open_expert": experts.__getitem__, "stimuli": stimuli, "STEPS": 2}
    exec(example, names)
    assert [image.size for image in names["images"]] == [(16, 16)]
    assert (tmp_path / "runs" / "real" / "bridges.safetensors").is_file()


def test_images_of_another_size_are_refused(generator):
    with pytest.raises(ValueError, match="resize"):
        generator("SD 3.5").latents(torch.zeros(1, 3, 8, 8))


def test_texts_are_for_condition(generator):
    with pytest.raises(ValueError, match="condition"):
        generator("SD 3.5").encode(["a dot"])
