"""Blocks of any model are visited at their outputs and inside attention, and nothing is left behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.integrations import sdpa_attention

from bridgework.models.towers.checkpointing import checkpoint_blocks
from bridgework.models.towers.visiting import visiting
from bridgework.probes.hooks.attention_calls import SDPA
from bridgework.probes.hooks.capturing import capture

from ..pairs import (
    FLUX,
    LLAVA,
    LM,
    OUTSIDE,
    PAIRS,
    PIXART,
    QWEN_VL,
    SD3,
    UNET,
    WAN,
    Joined,
    Named,
    inside_of,
    label,
    opened,
    tensors,
    traces,
)


@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_one_way_is_the_identity_at_gate_0_and_reaches_the_other_tower_elsewhere(pair, inside):
    joined = Joined(pair, inside)
    with torch.no_grad():
        assert torch.equal(tensors(joined.one_way()), tensors(joined.sides[1].run()))
    assert joined.visited == len(joined.blocks[1])
    check_gradients_reach_the_first(joined)
    assert traces(*joined.models) == (0, [])


@pytest.mark.parametrize("pair", OUTSIDE, ids=label)
def test_one_way_at_block_outputs_where_attention_cannot_be_visited(pair):
    joined = Joined(pair)
    with torch.no_grad():
        assert torch.equal(tensors(joined.one_way()), tensors(joined.sides[1].run()))
    check_gradients_reach_the_first(joined)


def check_gradients_reach_the_first(joined: Joined) -> None:
    for bridge in joined.bridges.modules():
        if hasattr(bridge, "gate"):
            nn.init.constant_(bridge.gate, 0.7)
    first = joined.sides[0].tower.model.requires_grad_(True)
    output = tensors(joined.one_way())
    with torch.no_grad():
        assert not torch.equal(output, tensors(joined.sides[1].run()))
    output.square().sum().backward()
    block = first.get_submodule(joined.sides[0].tower.blocks[joined.blocks[0][0]])
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in block.parameters())


def test_own_attention_can_be_made_again():
    """Query, key, value, mask and scale are what the block attended with: causal, grouped-query, biased."""
    for named in (LLAVA, Named("T5EncoderModel (text enc)"), Named("Gemma3ForConditionalGeneration"), SD3, UNET):
        tower, run = opened(named)

        def check(own):
            again = nn.functional.scaled_dot_product_attention(
                own.query, own.key, own.value, own.mask, scale=own.scale, enable_gqa=True
            )
            torch.testing.assert_close(again, own.own, rtol=1e-5, atol=1e-6)

        with torch.no_grad(), visiting(tower, dict.fromkeys(inside_of(tower), check), inside=True):
            run()


class Functions(TorchFunctionMode):
    """Somebody's function mode: which functions it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_a_block_that_calls_attention_by_name_runs_without_a_function_mode(monkeypatch):
    """Only what is seen by a mode shows that; a reference that a library took at its import is seen by a mode alone."""
    tower, run = opened(LM)
    visits, state = [], []

    def look(module: Any, *_: Any) -> None:
        state.append((torch._C._len_torch_function_stack(), F.scaled_dot_product_attention is SDPA))

    handle = tower.model.get_submodule(tower.blocks[0]).register_forward_pre_hook(look)
    inner = list(tower.model.get_submodule(tower.blocks[0]).modules())[-1].register_forward_pre_hook(look)

    def passes(count: int) -> list[Any]:
        visits.clear(), state.clear()
        for _ in range(count):
            with torch.no_grad(), visiting(tower, {0: lambda own: visits.append(own.query.shape)}, inside=True):
                run()
        assert len(visits) == count
        assert F.scaled_dot_product_attention is SDPA
        return state[1::2]

    tower.named.clear()
    assert passes(2) == [(1, False), (0, False)]
    with Functions() as mode:
        assert passes(1) == [(2, False)]
    assert SDPA in mode.seen
    monkeypatch.setattr(sdpa_attention, "torch", SimpleNamespace(**vars(torch)))
    monkeypatch.setattr(sdpa_attention.torch, "nn", SimpleNamespace(functional=SimpleNamespace(**vars(F))))
    tower.named.clear()
    assert passes(2) == [(1, False), (1, False)]
    handle.remove(), inner.remove()


def test_visits_within_visits_change_attention_in_the_same_order_by_name_and_by_a_mode():
    tower, run = opened(LM)
    outputs = []
    tower.named.clear()
    for _ in range(2):
        with (
            torch.no_grad(),
            visiting(tower, {0: lambda own: own.own + 1}, inside=True),
            visiting(tower, {0: lambda own: own.own * 2}, inside=True),
        ):
            outputs.append(tensors(run()))
    assert tower.named == {0}
    assert torch.equal(*outputs)
    with torch.no_grad(), visiting(tower, {0: lambda own: (own.own + 1) * 2}, inside=True):
        assert torch.equal(outputs[0], tensors(run()))


def checkpointed(model: Any, reentrant: bool = False) -> None:
    checkpoint_blocks(model, use_reentrant=reentrant)
    model.train()


CHECKPOINTED = [(LLAVA, SD3), (LM, FLUX), (QWEN_VL, PIXART), (LM, UNET), (Named("Gemma3ForConditionalGeneration"), WAN)]


def gradients(joined: Joined, both: bool) -> list[Tensor]:
    """Of the bridges and both towers, after another pass has been visited otherwise."""
    for module in (joined.bridges, *joined.models):
        module.zero_grad()
    outputs = joined.together() if both else (joined.one_way(),)
    loss = torch.stack([tensors(output).square().mean() for output in outputs]).sum()
    with visiting(joined.sides[1].tower, {0: lambda state: state * 0 + 9}):  # other visits, while computing again
        loss.backward()
    every = [parameter for module in (joined.bridges, *joined.models) for parameter in module.parameters()]
    assert traces(*joined.models) == (0, [])
    return [parameter.grad for parameter in every if parameter.grad is not None]


@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("pair", CHECKPOINTED, ids=label)
def test_checkpointing_changes_no_gradient(pair, inside, both):
    joined = Joined(pair, inside, gate=0.7, fresh=True)
    for model in joined.models:
        model.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    plain = gradients(joined, both)
    for model in joined.models:
        checkpointed(model)
    again = gradients(joined, both)
    assert len(plain) == len(again)
    assert sum(float(gradient.abs().max()) > 0 for gradient in plain) > 20
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_checkpointed_blocks_are_computed_again():
    """The test above would pass if nothing were checkpointed."""
    tower, run = opened(SD3)
    checkpointed(tower.model.requires_grad_(True))
    count = []
    with visiting(tower, {1: lambda own: count.append(torch.is_grad_enabled())}, inside=True):
        output = tensors(run())
    assert len(count) == 1
    output.sum().backward()
    assert len(count) == 2


@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
def test_autocast_and_no_gradients(inside):
    joined = Joined((LLAVA, SD3), inside)
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            plain = joined.bare()
            assert torch.equal(tensors(joined.one_way()), tensors(plain[1]))
            for one, other in zip(joined.together(), plain, strict=True):
                assert torch.equal(tensors(one), tensors(other))
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
def test_nothing_is_left_behind(inside, error):
    tower, run = opened(SD3)
    model: Any = tower.model.requires_grad_(True)
    checkpointed(model)

    def fail(*args):
        raise error("here")

    with pytest.raises(error, match="here"), visiting(tower, {1: fail}, inside):
        run()
    assert traces(tower.model) == (0, [])
    handle = model.transformer_blocks[1].attn.to_q.register_forward_hook(fail)
    with pytest.raises(error, match="here"), visiting(tower, {1: lambda own: None}, inside):
        run()
    handle.remove()
    assert traces(tower.model) == (0, [])
    again = []

    def fail_again(own):
        again.append(1)
        if len(again) > 1:
            raise error("here")
        return (own.own if inside else own).square()  # which saves what is to be computed again

    with visiting(tower, {1: fail_again}, inside):
        output = tensors(run())
    with pytest.raises(error, match="here"):
        output.sum().backward()
    assert traces(tower.model) == (0, [])


@pytest.mark.parametrize("compiled", [False, True], ids=["as it is", "compiled"])
def test_a_bridge_reads_what_the_users_hook_made_and_probes_read_what_the_bridge_made(compiled):
    """Each state is what the next block is given: a user's steering, then bridges, then whoever looks on."""
    torch._dynamo.reset()
    tower, run = opened(LM)
    block: Any = tower.model.get_submodule(tower.blocks[1])
    if compiled:
        block.compile(backend="eager")
    seen: dict[str, Tensor] = {}

    def look(name: str):
        return lambda state: seen.update({name: state.clone()})

    def entered(module: nn.Module, args: tuple) -> None:
        seen["next"] = args[0].clone()

    handles = [block.register_forward_hook(lambda module, args, output: output + 3)]
    handles.append(tower.model.get_submodule(tower.blocks[2]).register_forward_pre_hook(entered))
    with torch.no_grad():
        with capture(tower.model, [tower.blocks[1]], stop=False) as taps:
            run()
        steered = taps[tower.blocks[1]]
        torch.testing.assert_close(steered, seen["next"])

        def bridge(state: Tensor) -> Tensor:
            seen["bridge"] = state.clone()
            return state * 2

        outer = {1: look("onlooker")}
        with visiting(tower, outer), visiting(tower, {1: bridge}):
            run()
        with capture(tower.model, [tower.blocks[1]], stop=False) as taps, visiting(tower, {1: bridge}):
            run()
        with visiting(tower, {1: bridge}), capture(tower.model, [tower.blocks[1]], stop=False) as inner:
            run()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen["bridge"], steered)
    for state in (seen["onlooker"], taps[tower.blocks[1]], inner[tower.blocks[1]], seen["next"]):
        torch.testing.assert_close(state, steered * 2)
    assert traces(tower.model) == (0, [])
