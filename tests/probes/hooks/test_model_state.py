"""Preparation: whatever evaluates a model leaves each part's training flag and each gradient as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bridgework.probes.evidence import attention, attribution, conflict
from bridgework.probes.hooks.model_state import evaluating
from bridgework.probes.subjects.subject import prepared
from bridgework.tests.probes.evidence.test_attention import DualStream, Pair, vision_language_model
from bridgework.tests.probes.toys import letters, open_toy


def spoilt(model: nn.Module) -> tuple[nn.Module, Callable[[], tuple]]:
    """The model with parts of either mode, a frozen parameter and a gradient; and a look at all of that."""
    torch.manual_seed(0)
    model.train()
    parts, parameters = list(model.modules()), list(model.parameters())
    parts[-1].training = False
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])

    def look() -> tuple:
        grads = [None if p.grad is None else p.grad.clone().sum().item() for p in parameters]
        return [m.training for m in parts], [p.requires_grad for p in parameters], grads, torch.is_grad_enabled()

    return model, look


def fail(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_flags_come_back(error):
    model, look = spoilt(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2))))
    before = look()
    try:
        with evaluating(model):
            assert not any(m.training for m in model.modules())
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert look() == before


def test_every_module_of_a_subject_is_prepared():
    toy: Any = open_toy()
    toy.encoder = nn.Dropout()
    with prepared(toy, "cpu"):
        assert not toy.encoder.training
    assert toy.encoder.training


def attributed(method: str) -> Any:
    def run(fails: bool) -> Any:
        toy = open_toy()
        output = fail if fails else lambda result, stimuli, shown: result.sum((1, 2))
        return toy.model, lambda: attribution.attribute(
            toy, letters("a", "bc"), output, method=method, steps=2, batch_size=2, device="cpu"
        )

    return run


def looked(subject: Any, **options: Any) -> Any:
    def run(fails: bool) -> Any:
        made = subject()
        if fails:
            made.model.get_submodule(made.blocks[-1]).register_forward_pre_hook(fail)
        stimuli = letters("ab", "cd")
        return made.model, lambda: attention.attention_mass(made, stimuli, device="cpu", **options)

    return run


def torn(fails: bool) -> Any:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    losses = [lambda n=n: model(torch.full((1, 3), n + 1.0)).square().mean() for n in range(4)]
    bad = [fail] * 4 if fails else losses
    return model, lambda: conflict.gradient_conflict(model, ("0", "1"), {"one": losses, "other": bad}, splits=2)


WAYS: dict[str, Any] = {
    "conductance": attributed("conductance"),
    "integrated gradients": attributed("integrated_gradients"),
    "ablation": attributed("ablation"),
    "attention": looked(lambda: vision_language_model("sdpa")),
    "attention of two streams": looked(lambda: Pair(DualStream("text")), timestep=0.5),
    "conflict": torn,
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_left_as_it_was(way, fails):
    model, call = WAYS[way](fails)
    model, look = spoilt(model)
    before = look()
    if fails:
        with pytest.raises(KeyboardInterrupt):
            call()
    else:
        assert len(call())
    assert look() == before
