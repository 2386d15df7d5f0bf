"""Whatever checkpoints a tower, the gradients of bridges are those without it, or one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from bridgework.models.towers.tower import Tower
from bridgework.models.towers.visiting import visiting

from ..pairs import LM, SD3, Joined, opened, tensors, traces
from .test_visiting import checkpointed, gradients

SAVED = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default]


def by_hand(module: Any, **options: Any) -> None:
    """Checkpoint a module's forward, as a model does that calls torch's function itself."""
    forward = module.forward
    module.forward = lambda *args, **kwargs: checkpoint(forward, *args, **{"use_reentrant": False, **options}, **kwargs)


def wrapped(tower: Tower, **options: Any) -> None:
    """Put torch's wrapper around every block, as FSDP's users do."""
    for path in tower.blocks:
        tower.model.set_submodule(path, checkpoint_wrapper(tower.model.get_submodule(path), **options))


def in_every_block(tower: Tower, part: str, **options: Any) -> None:
    for path in tower.blocks:
        block: Any = tower.model.get_submodule(path)
        modules = dict(block.named_modules())
        inner = next((module for name, module in modules.items() if name in ("self_attn", "attn", "attn1")), None)
        by_hand(block if part == "block" else inner, **options)


def selected() -> Any:
    return create_selective_checkpoint_contexts(SAVED)


class Again(torch.autograd.Function):
    """Checkpointing that somebody wrote himself, reentrant as before torch had another."""

    @staticmethod
    def forward(ctx: Any, run: Any, states: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(states)
        with torch.no_grad():
            return run(states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        states = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.run(states)
        output.backward(*grads)
        return None, states.grad


WAYS: dict[str, Callable[[Tower], Any]] = {
    "torch's wrapper": wrapped,
    "the wrapper, some results saved": lambda tower: wrapped(tower, context_fn=selected),
    "blocks by hand": lambda tower: in_every_block(tower, "block"),
    "attention by hand": lambda tower: in_every_block(tower, "attention"),
    "attention by hand, some results saved": lambda tower: in_every_block(tower, "attention", context_fn=selected),
    "blocks and attention": lambda tower: (in_every_block(tower, "attention"), wrapped(tower)),
    "the whole model": lambda tower: by_hand(tower.model),
    "no early stop": lambda tower: wrapped(tower, early_stop=False),
}


ALL = [("torch's wrapper", inside, both) for inside in (False, True) for both in (False, True)]


@pytest.mark.parametrize(("way", "inside", "both"), [*ALL, *((way, True, True) for way in list(WAYS)[1:])])
def test_checkpointing_by_other_means_changes_no_gradient(way, inside, both):
    joined = Joined((LM, SD3), inside, gate=0.7, fresh=True)
    for model in joined.models:
        model.requires_grad_(True).train()
    plain = gradients(joined, both)
    for side in joined.sides:
        WAYS[way](side.tower)
    again = gradients(joined, both)
    assert len(plain) == len(again)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert torch.utils.checkpoint.CheckpointFunction.__module__ == "torch.utils.checkpoint"


REENTRANT: dict[str, Callable[[Tower], Any]] = {
    "the model's own": lambda tower: checkpointed(tower.model, reentrant=True),
    "torch's wrapper": lambda tower: wrapped(tower, checkpoint_impl=CheckpointImpl.REENTRANT),
    "attention by hand": lambda tower: reentrant_attention(tower.model),
}


def reentrant_attention(model: Any) -> None:
    """Checkpoint attention with its states by position, as this kind asks."""
    for layer in model.model.layers:

        def attend(forward: Any = layer.self_attn.forward, **kwargs: Any) -> Any:
            states = kwargs.pop("hidden_states")
            return checkpoint(lambda states: forward(hidden_states=states, **kwargs), states, use_reentrant=True)

        layer.self_attn.forward = attend


@pytest.mark.parametrize("way", REENTRANT)
def test_reentrant_checkpointing_is_refused(way):
    tower, run = opened(LM)
    tower.model.requires_grad_(True).train()
    REENTRANT[way](tower)
    with pytest.raises(ValueError, match="use_reentrant=False"), visiting(tower, {1: lambda own: own.own}, True):
        run()
    assert traces(tower.model) == (0, [])
    with torch.no_grad(), visiting(tower, {1: lambda own: own.own}, True):
        run()


def test_checkpointing_that_somebody_wrote_himself_is_refused_where_a_visit_changes_something():
    tower, run = opened(LM)
    layer: Any = tower.model.requires_grad_(True).get_submodule(tower.blocks[1])
    forward = layer.forward
    layer.forward = lambda states, **kwargs: Again.apply(lambda states: forward(states, **kwargs), states)
    with visiting(tower, {1: lambda own: None}, True):
        tensors(run()).sum().backward()
    message = "runs without gradients in a pass that has them"
    with pytest.raises(ValueError, match=message), visiting(tower, {1: lambda own: own.own}, True):
        run()


def test_a_region_without_a_visited_block_may_be_reentrant():
    tower, run = opened(LM)
    tower.model.requires_grad_(True)

    def gradient() -> list[Tensor]:
        tower.model.zero_grad()
        with visiting(tower, {2: lambda own: own.own * 2}, True):
            output = tensors(run())
        with visiting(tower, {0: lambda own: own.own * 0}, True):  # another pass, while the first is computed again
            output.square().sum().backward()
        return [p.grad for p in tower.model.parameters() if p.grad is not None]

    plain = gradient()
    path = tower.blocks[0]
    block = checkpoint_wrapper(tower.model.get_submodule(path), checkpoint_impl=CheckpointImpl.REENTRANT)
    tower.model.set_submodule(path, block)
    for one, other in zip(plain, gradient(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
