"""Probing one trunk: its own states, of its task's blocks, without the other modality."""

from __future__ import annotations

import pytest
import torch

from bridgework.models.scenes.composing import scene_stimuli
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.models.unified.token_model import UnifiedTokens
from bridgework.models.unified.trunk_subject import unified_subject
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.plans.layouts import lay_out
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus

STIMULI = scene_stimuli("evidence", 6)
PLANS = {"shared": lay_out("shared", 4, 4), "Y": lay_out("Y", 4, 4, fork=2)}


@pytest.fixture(params=[UnifiedModel, UnifiedTokens])
def kind(request):
    return request.param


def make(kind, layout, tiny_vlm, tiny_dit):
    torch.manual_seed(3)
    model = kind.from_experts(PLANS[layout], tiny_vlm, tiny_dit)
    with torch.no_grad():
        for parameter in model.trunk.own_layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_understanding_features_are_the_states_of_a_llava(kind, tiny_vlm, tiny_dit):
    """At the shared trunk's start they are those of the expert that it was made from."""
    own = extract(unified_subject(make(kind, "shared", tiny_vlm, tiny_dit), "understanding"), STIMULI)
    theirs = extract(tiny_vlm, STIMULI)
    for modality in ("image", "text"):
        torch.testing.assert_close(own[modality].values, theirs[modality].values, rtol=1e-4, atol=1e-5)


def test_a_fork_gives_each_task_its_blocks(kind, tiny_vlm, tiny_dit):
    model = make(kind, "Y", tiny_vlm, tiny_dit)
    subject = unified_subject(model, "generation")
    assert [path.split(".")[-2] for path in subject.blocks] == ["layers"] * 2 + ["own_layers"] * 2
    text = [s.text for s in STIMULI[:1]]
    with capture(model, list(subject.blocks)) as taps, torch.no_grad():
        subject.show(STIMULI[:1], ("text",), "generation", None).run()
    words = model.condition(text).real.sum()
    times = (1.0,) if subject.timed_tasks else ()
    found = extract(subject, Stimuli(STIMULI[:1], name="one"), timesteps=times)["text"].values
    for number, path in enumerate(subject.blocks):
        wanted = taps[path][0, 1:words].mean(0)
        torch.testing.assert_close(found.reshape(5, -1)[number + 1].float(), wanted, rtol=1e-4, atol=1e-5)


def test_an_image_is_shown_without_its_caption(kind, tiny_vlm, tiny_dit):
    """Nor does noise tell which image a caption belongs to."""
    model = make(kind, "Y", tiny_vlm, tiny_dit)
    others = Stimuli([Stimulus(s.image, "a ring", s.id) for s in STIMULI], name="others")
    for task in ("understanding", "generation"):
        subject = unified_subject(model, task)
        times = (0.5,) if subject.timed_tasks else ()
        own, changed = (extract(subject, stimuli, timesteps=times)["image"] for stimuli in (STIMULI, others))
        torch.testing.assert_close(own.values, changed.values)


def test_what_cannot_be_probed_is_said(tiny_vlm, tiny_dit):
    x = UnifiedModel.from_experts(lay_out("X", 4, 4, ends=(1, 1)), tiny_vlm, tiny_dit)
    with pytest.raises(ValueError, match="probe 'shared' or 'Y'"):
        unified_subject(x, "generation")
    with pytest.raises(ValueError, match="expected understanding or generation"):
        unified_subject(make(UnifiedModel, "Y", tiny_vlm, tiny_dit), "drawing")
    with pytest.raises(TypeError, match="fused_subject"):
        unified_subject(tiny_vlm, "generation")
