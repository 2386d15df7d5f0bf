"""Editing: at first the untouched generator; then each way in carries the source, and the bridges the instruction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bridgework.models.editing.editing_model import SOURCES, EditingModel, EditRequest
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.generation.flow import flow_loss
from bridgework.models.generation.sampling import generate
from bridgework.models.scenes.edits import render_edit, scene_edits
from bridgework.probes.plans.layouts import lay_out
from bridgework.probes.stimuli.images import to_pixels

LAYOUTS = ("dense", "H", "double fusion", "last", "soft")
EDITS = scene_edits("train", 1)[:3]
PAIRS = [render_edit(edit, np.random.default_rng(0)) for edit in EDITS]
REQUESTS = [EditRequest(source, edit.instruction) for edit, (source, _) in zip(EDITS, PAIRS, strict=True)]
NOISY = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
TIME = torch.full((3,), 0.7)


def opened(model: EditingModel) -> EditingModel:
    """Nothing is zero any more."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.trained().parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return model.eval()


@torch.no_grad()
def drawn(model: EditingModel, requests: list[EditRequest]) -> torch.Tensor:
    return model.predict(NOISY, model.condition(requests), TIME)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_starts_from_the_untouched_generator(fuse, layout):
    fused = fuse(lay_out(layout, 4, 3))
    dit = fused.experts[1]
    with torch.no_grad():
        alone = dit.predict(NOISY, fused.own_text(3), TIME)
    for source in SOURCES:
        assert torch.equal(drawn(EditingModel(fused, source), REQUESTS), alone)


@pytest.mark.parametrize("source", SOURCES)
def test_source_and_instruction_reach_the_generator_by_their_own_ways(fuse, source):
    model = opened(EditingModel(fuse(lay_out("double fusion", 4, 3)), source))
    as_asked = drawn(model, REQUESTS)
    told_alike = drawn(model, [request._replace(instruction="remove the ring") for request in REQUESTS])
    seen_alike = drawn(model, [request._replace(source=PAIRS[0][0]) for request in REQUESTS])
    assert not torch.equal(told_alike, as_asked)
    assert not torch.equal(seen_alike, as_asked)
    model.fused.disabled_bridges = set(range(len(model.fused.bridges)))
    without_words = drawn(model, REQUESTS)
    changed = not torch.equal(
        drawn(model, [request._replace(source=PAIRS[0][0]) for request in REQUESTS]), without_words
    )
    assert changed == (source != "semantic")  # spatial tokens do not pass by the bridges, semantic ones do
    read = [model.condition(requests).text.handed[0].key for requests in (REQUESTS, model.without_text(REQUESTS))]
    tokens = [states.shape[2] for states in read]
    assert (tokens[1] >= 16) == (source != "spatial")  # the understanding expert sees the patches of the source


def test_bridges_and_entry_alone_learn_and_the_loss_falls(fuse):
    model = EditingModel(fuse(lay_out("H", 4, 3)), "both").train()
    before = {name: p.clone() for name, p in model.fused.generation.named_parameters()}
    noise = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = {"image": to_pixels([result for _, result in PAIRS], 32), "caption": REQUESTS, "time": TIME, "noise": noise}
    learnt = [p for p in model.parameters() if p.requires_grad]
    trained = {id(p) for p in model.trained().parameters()}
    assert {id(p) for p in learnt} <= trained
    optimizer, losses = torch.optim.AdamW(learnt, 2e-2), []
    for _ in range(12):
        loss = flow_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert model.entry is not None
    assert model.entry.gate.abs().min() > 0
    assert all(torch.equal(before[name], p) for name, p in model.fused.generation.named_parameters())


def test_guidance_leaves_out_the_words_and_keeps_the_source(fuse):
    model = opened(EditingModel(fuse(lay_out("H", 4, 3)), "both"))
    null = model.without_text(REQUESTS)
    assert [(request.source, request.instruction) for request in null] == [(source, "") for source, _ in PAIRS]
    (guided,) = generate(model, REQUESTS[:1], ["one"], steps=2, guidance=0.0)
    (unsaid,) = generate(model, null[:1], ["one"], steps=2, guidance=1.0)
    np.testing.assert_array_equal(np.asarray(guided), np.asarray(unsaid))


def test_a_saved_model_edits_the_same(fuse, make_experts, tmp_path):
    for source in SOURCES:
        model = opened(EditingModel(fuse(lay_out("H", 4, 3)), source))
        model.save(tmp_path / source)
        back = EditingModel.load(tmp_path / source, *make_experts()).eval()
        assert back.source == source
        assert torch.equal(drawn(back, REQUESTS), drawn(model, REQUESTS))
    fuse(lay_out("H", 4, 3)).save(tmp_path / "fused")
    with pytest.raises(FileNotFoundError, match=r"no editing model in .*source\.safetensors"):
        EditingModel.load(tmp_path / "fused", *make_experts())


def test_latents_of_a_pipeline_enter_by_its_patch_embedding(fuse_pipeline):
    model = EditingModel(fuse_pipeline("SD 3.5"), "spatial")
    assert model.entry is not None
    _, rows, columns = model.pixels
    request = EditRequest(Image.new("RGB", (columns, rows), "red"), "remove the ring")
    noisy, time = torch.zeros(1, *model.size), torch.ones(1)
    with torch.no_grad():
        states = model.condition([request])
        before = model.predict(noisy, states, time)
        nn.init.normal_(model.entry.gate)
        assert not torch.equal(model.predict(noisy, states, time), before)
    assert not model.fused.generation.pos_embed._forward_hooks  # nothing is left behind


def test_captions_in_the_place_of_requests_are_refused(fuse):
    model = EditingModel(fuse(lay_out("H", 4, 3)), "spatial")
    with pytest.raises(TypeError, match="expected a sequence, each part an EditRequest"):
        generate(model, ["a red circle"], ["one"], steps=1)


def test_what_cannot_edit_is_refused(fuse, make_experts):
    fused = fuse(lay_out("H", 4, 3))
    with pytest.raises(ValueError, match="unknown source tokens 'pixels': expected one of semantic, spatial, both"):
        EditingModel(fused, "pixels")
    with pytest.raises(ValueError, match="plan it one way, both_ways=False"):
        EditingModel(fuse(lay_out("H", 4, 3, both_ways=True)))
    fused.experts[0].modalities = ("text",)
    with pytest.raises(ValueError, match="tiny-vlm reads no images: let the source enter as 'spatial' tokens"):
        EditingModel(fused)
    assert isinstance(EditingModel(fused, "spatial").fused, FusedModel)
    fused.generation.pos_embed = nn.Identity()
    with pytest.raises(ValueError, match=r"tiny-dit has 0 patch .*let the source enter as 'semantic' tokens"):
        EditingModel(fused, "spatial")
