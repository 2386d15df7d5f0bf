"""Link ablation: a broken link is the untouched block, effects are those computed by hand, and nothing stays broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bridgework.models.evaluation import link_ablation
from bridgework.models.evaluation.link_ablation import ablate_links, broken, link_drift
from bridgework.models.evaluation.scores import draw_scenes
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.generation.flow import noisy_images, velocity_loss
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.stimuli.controls import noise_for
from bridgework.probes.stimuli.images import to_pixels

CAPTIONS = ["a red circle", "three blue crosses", "a ring"]
TIMES = (0.4, 0.9)


def open_gates(fused: FusedModel, *values: float) -> FusedModel:
    with torch.no_grad():
        for bridge, value in zip(fused.bridges, values, strict=True):
            bridge.get_parameter("gate").fill_(value)
    return fused


@pytest.fixture
def fused(fuse, plan) -> FusedModel:
    return open_gates(fuse(plan), 0.8, 0.8, 0.8)


def predict(fused: FusedModel) -> torch.Tensor:
    noisy = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return fused.predict(noisy, fused.condition(CAPTIONS), torch.tensor([0.3, 0.6, 0.9]))


def hooks(fused: FusedModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in fused.modules())


def test_without_any_link_the_generator_is_the_untouched_expert(fused):
    expert = fused.experts[1]
    noisy = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        untouched = expert.predict(noisy, expert.encode([""] * 3), torch.tensor([0.3, 0.6, 0.9]))
    whole = predict(fused)
    with broken(fused, range(3)):
        assert torch.equal(predict(fused), untouched)
    assert (whole - untouched).abs().max() > 1e-3


@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_broken_link_is_a_gate_at_0(fused, link):
    with broken(fused, [link]):
        without = predict(fused)
    values = [0.8, 0.8, 0.8]
    values[link] = 0
    assert torch.equal(predict(open_gates(fused, *values)), without)


def test_nothing_is_left_behind(fused):
    before, weights = predict(fused), {name: p.clone() for name, p in fused.named_parameters()}
    with broken(fused, [1]):
        assert not torch.equal(predict(fused), before)
    with pytest.raises(KeyboardInterrupt), broken(fused, [0, 2]):
        raise KeyboardInterrupt
    assert hooks(fused) == 0
    assert torch.equal(predict(fused), before)
    assert all(torch.equal(p, weights[name]) for name, p in fused.named_parameters())


def test_training_flags_come_back(fused, stimuli, monkeypatch):
    """In evaluation mode throughout, drawing too."""
    fused.train()
    fused.bridges[1].eval()
    flags = [module.training for module in fused.modules()]
    grads = [(p.requires_grad, p.grad) for p in fused.parameters()]
    drawing, drawn = draw_scenes, []

    def watched(*args: Any, **options: Any) -> Any:
        drawn.append(any(module.training for module in fused.modules()))
        return drawing(*args, **options)

    monkeypatch.setattr(link_ablation, "draw_scenes", watched)
    ablate_links(fused, stimuli[:2], times=(0.5,), each=1, steps=1)
    assert drawn == [False] * 5
    assert [module.training for module in fused.modules()] == flags
    fused.bridges[0].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        link_drift(fused, stimuli[:2], times=(0.5,))
    assert [module.training for module in fused.modules()] == flags
    assert [(p.requires_grad, p.grad) for p in fused.parameters()] == grads


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_bridge_that_is_not_there_is_named(fused):
    with pytest.raises(ValueError, match="no bridge 3: the plan has bridges 0 to 2"), broken(fused, [1, 3]):
        pass
    assert hooks(fused) == 0


def test_closed_gates_drift_by_exactly_nothing(fuse, plan, stimuli):
    table = link_drift(fuse(plan), stimuli, times=TIMES)
    assert len(table) == 4 * 3
    assert (table[["drift", "low", "high"]] == 0).all(axis=None)


@pytest.mark.parametrize("layout", ["H", "dense", "double fusion"])
def test_drift_begins_at_the_broken_bridge(fuse, plan, stimuli, layout):
    """At its own block: a bridge behind a block belongs to it."""
    fused = fuse(replace(plan, layout=layout))
    with torch.no_grad():
        for name, parameter in fused.bridges.named_parameters():
            if "gate" in name:
                parameter.fill_(0.8)
    drift = link_drift(fused, stimuli, times=TIMES).pivot(index="link", columns="layer", values="drift")
    for link, first in (("0-0", 0), ("2-1", 1), ("3-2", 2), ("all", 0)):
        assert (drift.loc[link].iloc[:first] == 0).all()
        assert (drift.loc[link].iloc[first:] > 1e-4).all()


def test_wider_gates_drift_further(fuse, plan, stimuli):
    def last(*values: float) -> dict[str, float]:
        table = link_drift(open_gates(fuse(plan), *values), stimuli, times=TIMES)
        return table[table.layer == "2"].set_index("link").drift.to_dict()

    first, second = last(0.9, 0.05, 0.0), last(0.05, 0.9, 0.0)
    assert first["3-2"] == 0
    assert first["0-0"] > first["2-1"] > 0
    assert second["2-1"] > second["0-0"] > 0


def test_effects_are_those_computed_by_hand(fused, stimuli):
    """Batches of two, so that the last is smaller; by hand all five at once."""
    table = ablate_links(fused, stimuli, times=TIMES, each=1, batch_size=2, steps=1).set_index("link")
    image = to_pixels([s.image for s in stimuli], 32)
    losses, drifts = [], []
    for time in TIMES:
        noisy, at = noisy_images(stimuli, True, time, 32)
        with torch.no_grad():
            text = fused.condition([s.text for s in stimuli])
            with capture(fused.generation, ["transformer_blocks.2"], stop=False) as whole:
                first = velocity_loss(fused.predict(noisy, text, at), image, at)
            kept = fused.bridges[1].gate.clone()
            fused.bridges[1].gate.zero_()
            with capture(fused.generation, ["transformer_blocks.2"], stop=False) as without:
                second = velocity_loss(fused.predict(noisy, text, at), image, at)
            fused.bridges[1].gate.copy_(kept)
        losses.append((second - first).item())
        h, other = (taps["transformer_blocks.2"]["image"].flatten(1) for taps in (whole, without))
        drifts.append(((other - h).norm(dim=1) / h.norm(dim=1)).mean().item())
    row = table.loc["2-1"]
    assert row.loss_increase == pytest.approx(np.mean(losses), rel=1e-3, abs=1e-6)
    assert row.drift == pytest.approx(np.mean(drifts), rel=1e-4)
    assert abs(row.loss_increase) > 1e-5
    assert row.loss_increase_low < row.loss_increase < row.loss_increase_high


@pytest.mark.parametrize(("family", "block"), [("SD 3.5", "transformer_blocks.2"), ("Wan", "blocks.2")])
def test_effects_on_a_pipeline_are_those_of_its_latents(fuse_pipeline, stimuli, family, block):
    """Wan's tiny pipeline draws images of the scenes' size, SD 3.5's smaller ones, which the checker cannot read."""
    fused = fuse_pipeline(family)
    for bridge in fused.bridges:
        torch.nn.init.constant_(bridge.get_parameter("gate"), 0.8)
    table = ablate_links(fused, stimuli, times=TIMES, each=1, batch_size=2, steps=1)
    with torch.no_grad():
        images = to_pixels([s.image for s in stimuli], fused.pixels[1])
        latents, text = fused.experts[1].latents(images), fused.condition([s.text for s in stimuli])
        losses, drifts = [], []
        for time in TIMES:
            noisy = time * noise_for([s.id for s in stimuli], fused.size) + (1 - time) * latents
            at, loss, states = torch.full((len(stimuli),), time), [], []
            for links in ([], [0]):
                with broken(fused, links), capture(fused.generation, [block], stop=False) as taps:
                    loss.append(velocity_loss(fused.predict(noisy, text, at), latents, at))
                state = taps[block]
                states.append((state["image"] if isinstance(state, dict) else state).flatten(1))
            losses.append((loss[1] - loss[0]).item())
            drifts.append(((states[1] - states[0]).norm(dim=1) / states[0].norm(dim=1)).mean().item())
    row = table.iloc[0]
    assert row.loss_increase == pytest.approx(np.mean(losses), rel=1e-3, abs=1e-6)
    assert row.drift == pytest.approx(np.mean(drifts), rel=1e-4)
    assert abs(row.drift) > 1e-5
    scored = fused.pixels == (3, 32, 32)
    assert scored == (family == "Wan")
    assert table[["score", "score_lost", "score_lost_low", "score_lost_high"]].notna().all(axis=None) == scored
    assert (table.images == (6 if scored else 0)).all()


@pytest.mark.parametrize("stream", ["text", "both"])
def test_drift_is_the_images_whatever_stream_the_bridges_enter(fuse, plan, stimuli, stream):
    fused = open_gates(fuse(replace(plan, stream=stream, pairs=((0, 0), (2, 1)))), 0.8, 0.8)
    drift = link_drift(fused, stimuli, times=(0.5,)).pivot(index="link", columns="layer", values="drift")
    noisy, at = noisy_images(stimuli, True, 0.5, 32)
    states = []
    for links in ([], [1]):
        with torch.no_grad(), broken(fused, links), capture(fused.generation, ["transformer_blocks.2"]) as taps:
            fused.predict(noisy, fused.condition([s.text for s in stimuli]), at)
        states.append(taps["transformer_blocks.2"]["image"].flatten(1))
    expected = ((states[1] - states[0]).norm(dim=1) / states[0].norm(dim=1)).mean().item()
    assert drift.loc["2-1", "2"] == pytest.approx(expected, rel=1e-5)
    assert expected > 1e-5


def test_one_row_a_link(fused, stimuli):
    fused.steps = 7
    table = ablate_links(fused, stimuli, times=(0.5,), each=2, steps=1)
    assert table.attrs["layers"] == [4, 3]
    assert table.attrs["cost"]["steps"] == 7 and table.attrs["cost"]["seconds"] > 0
    chosen = choose_bridges(table, "causal", 1)
    assert chosen.evidence["cost"] == table.attrs["cost"]
    assert (chosen.evidence["metric"], chosen.evidence["timesteps"]) == ("score_lost", [0.5])
    assert chosen.evidence["samples"] == len(stimuli)
    assert chosen.pairs[0] in fused.plan.pairs
    assert table.link.tolist() == ["0-0", "2-1", "3-2", "all"]
    assert table.understanding.tolist()[:3] == [0, 2, 3]
    assert table.generation.tolist()[:3] == [0, 1, 2]
    assert table.understanding.isna().tolist() == [False, False, False, True]
    assert (table.samples == 5).all()
    assert (table.images == 12).all()


def test_score_lost_is_paired(fused, stimuli, monkeypatch):
    """Of four images the whole model gets three right, and two of these without a link."""
    answers = iter([[1, 1, 1, 0], *[[1, 1, 0, 0]] * 4])
    monkeypatch.setattr(
        "bridgework.models.evaluation.link_ablation._correct", lambda *given: np.array(next(answers), float)
    )
    table = ablate_links(fused, stimuli, times=(0.5,))
    assert (table.score == 0.75).all()
    assert (table.score_lost == 0.25).all()
    reach = 3.182446 * 0.5 / 2  # Student's t with 3 degrees of freedom; deviation .5 of (0, 0, 1, 0)
    assert table.score_lost_high.tolist() == pytest.approx([0.25 + reach] * 4)


@pytest.mark.parametrize("times", [(), (0.0,), (0.5, 1.2)])
def test_times_are_checked(fused, times):
    with pytest.raises(ValueError, match=r"times is .*each part a finite number above 0 and of at most 1"):
        link_drift(fused, scene_stimuli("train", 2), times=times)


def test_without_scenes_the_loss_says_what_a_link_is_worth(fused, stimuli):
    open_gates(fused, 0.8, 0.8, 0.8)
    table = ablate_links(fused, stimuli, times=(0.5,), each=0)
    assert (table.images == 0).all() and table.score_lost.isna().all()
    plan = choose_bridges(table, "causal", 1)
    singles = table.iloc[:-1]
    best = singles.loc[singles.loss_increase.idxmax()]
    assert plan.pairs == ((best.understanding, best.generation),)
    assert plan.score == pytest.approx(best.loss_increase)
    assert plan.evidence["metric"] == "loss_increase"
