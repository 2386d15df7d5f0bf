"""Towers: blocks of any model are visited at their outputs and inside attention, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.models.towers.finding import find_tower
from bridgework.models.towers.visiting import measure, visiting

from ..pairs import (  # fmt: skip
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
    said,
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


@pytest.mark.parametrize("name", ZOO)
def test_any_model_of_the_zoo_is_a_tower(name):
    torch.manual_seed(0)
    tiny = ZOO[name][1]()
    model = tiny.model.eval()
    try:
        tower = find_tower(model, tiny.inputs)
    except ValueError as error:
        assert "say which the bridge enters" in str(error)
        tower = find_tower(model, tiny.inputs, stream="image")
    states: dict[int, Tensor] = {}

    def shift(number: int):
        def visit(state: Tensor) -> Tensor:
            states[number] = state
            return state + 0

        return visit

    with torch.no_grad():
        plain = tensors(model(**tiny.inputs))
        with visiting(tower, {number: shift(number) for number in range(len(tower.blocks))}):
            same = tensors(model(**tiny.inputs))
        for number in {0, len(tower.blocks) - 1}:
            with visiting(tower, {number: lambda state: torch.randn(state.shape)}):
                other = tensors(model(**tiny.inputs))
            assert not torch.equal(plain, other)
    assert torch.equal(plain, same)
    batch = 1 if name.startswith("Cosmos3") else 2
    assert all(state.ndim == 3 and len(state) == batch for state in states.values())
    assert measure(tower, lambda: model(**tiny.inputs)) == {n: (s.shape[2], 0, 0, 0) for n, s in states.items()}


# Reading and writing


def test_one_sample_is_changed_alone():
    """Packed rows, maps and plain batches: the visit's batch is the batch."""
    packed = Named("Qwen2VLForConditionalGeneration", "model.visual.blocks")
    for named in (packed, UNET, PIXART, SD3, WAN):
        tower, run = opened(named)
        with torch.no_grad(), visiting(tower, {0: lambda s: s * torch.tensor([1.0, -3.0])[:, None, None]}):
            changed = run()
        with torch.no_grad():
            plain = run()
        now, then = (out.logits if hasattr(out, "logits") else out[0] for out in (changed, plain))
        torch.testing.assert_close(now[0], then[0], rtol=0, atol=1e-6)
        assert not torch.allclose(now[1], then[1], atol=1e-4)


@pytest.mark.parametrize("stream", ["image", "text", "both"])
def test_a_stream_is_what_the_bridge_enters(stream):
    tower, run = opened(FLUX._replace(stream=stream))
    tokens = {"image": 16, "text": 7, "both": 23}[stream]
    seen = []
    with torch.no_grad(), visiting(tower, {0: lambda state: seen.append(state.shape)}):
        run()
    assert seen == [(2, tokens, 32)]
    with torch.no_grad(), visiting(tower, {0: lambda own: seen.append(own.query[:, :, own.reads])}, inside=True):
        run()
    assert seen[1].shape[2] == tokens


def test_image_tokens_of_one_sequence():
    tower, run = opened(LLAVA._replace(stream="image"))
    outputs, seen = [], []
    block = tower.model.get_submodule(tower.blocks[1])
    with torch.no_grad(), visiting(tower, {1: lambda state: state + 1}):
        handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
        run()
        handle.remove()
    with torch.no_grad(), visiting(tower, {1: lambda state: seen.append(state)}):
        run()
        handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
        run()
        handle.remove()
    moved = (outputs[0] - outputs[1]).abs().amax((0, 2)) > 0.5
    assert moved.nonzero()[:, 0].tolist() == list(range(3, 19))
    assert seen[0].shape == (2, 16, 32)


def test_both_streams_come_image_first():
    for inside in (False, True):
        rows = {}
        for stream in ("image", "text", "both"):
            tower, run = opened(FLUX._replace(stream=stream))

            def visit(own, rows=rows, inside=inside, stream=stream):
                rows[stream] = own.query[:, :, own.reads] if inside else own

            with torch.no_grad(), visiting(tower, {1: visit}, inside):
                run()
        axis = 2 if inside else 1
        assert torch.equal(rows["both"], torch.cat([rows["image"], rows["text"]], axis))


def test_padding_is_known_to_visits():
    torch.manual_seed(0)
    tiny = ZOO[LM.model][1]()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    model = tiny.model.eval()
    tower = find_tower(model, tiny.inputs)
    seen = []
    for inside in (False, True):
        with visiting(tower, {0: lambda own: seen.append(tower.valid_tokens)}, inside):
            model(**tiny.inputs, attention_mask=mask)
            model(**tiny.inputs)
        assert torch.equal(seen[-2], mask.bool())
        assert seen[-1] is None
    assert tower.valid_tokens is None


# Inside attention


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


@pytest.mark.parametrize(("named", "rows"), [(SD3, slice(0, 16)), (FLUX, slice(7, 23)), (PIXART, slice(None))])
def test_the_bridged_stream_is_found_in_the_joint_sequence(named, rows):
    tower, run = opened(named)
    calls = []
    with visiting(tower, {0: lambda own: calls.append((own.reads, own.key.shape[2] == own.query.shape[2]))}, True):
        run()
    assert calls == [(rows, True)]  # once: neither SD3.5's second attention nor cross-attention


# Refusals


def test_attention_that_cannot_be_visited_is_refused():
    for named, what in (
        (Named("Qwen2_5_VLForConditionalGeneration", "model.visual.blocks"), "by sample or by window"),
        (Named("FlavaModel (uni + fusion encoder)"), "attn_implementation='sdpa'"),
        (Named("SanaTransformer2DModel"), "bridge at block outputs"),
    ):
        tower, _ = opened(named)
        with (
            pytest.raises(ValueError, match=f"block '{tower.blocks[0]}'.*{what}"),
            visiting(tower, {0: said}, inside=True),
        ):
            pass


def test_models_without_tokens_are_refused():
    with pytest.raises(ValueError, match="Linear has no stack of blocks"):
        find_tower(nn.Linear(2, 2), {"input": torch.zeros(2, 2)})
    tiny = ZOO["JanusForConditionalGeneration"][1]()
    with pytest.raises(ValueError, match=r"JanusForCond\w+ does not run 'model.vqmodel.decoder.up'"):
        find_tower(tiny.model, tiny.inputs, stack="model.vqmodel.decoder.up")
    with pytest.raises(ValueError, match="has no stack 'layers': it has"):
        find_tower(tiny.model, tiny.inputs, stack="layers")
    with pytest.raises(ValueError, match="has no text tokens"):
        opened(PIXART._replace(stream="text"))
    with pytest.raises(ValueError, match="say which the bridge enters"):
        opened(SD3._replace(stream=None))


def test_wrong_visits_are_refused():
    tower, run = opened(SD3)
    with pytest.raises(ValueError, match=r"block 4 of SD3Transformer2DModel, which has 4"), visiting(tower, {4: said}):
        pass
    with pytest.raises(ValueError, match=r"gave \(2, 32\) for states of \(2, 16, 32\)"), visiting(tower, {0: said}):
        run()
    text, run = opened(SD3._replace(stream="text"))
    with pytest.raises(ValueError, match=r"transformer_blocks.3' returns no text"), visiting(text, {3: said}):
        run()
    with pytest.raises(ValueError, match="inside block"), visiting(tower, {0: lambda own: own.own[:, :, :3]}, True):
        tower.model(**ZOO[SD3.model][1]().inputs)
    assert traces(tower.model, text.model) == (0, [])


# Gradient checkpointing


def checkpointed(model: Any, reentrant: bool = False) -> None:
    if hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    else:
        model.enable_gradient_checkpointing()
    model.train()


CHECKPOINTED = [(LLAVA, SD3), (LM, FLUX), (QWEN_VL, PIXART), (LM, UNET), (Named("Gemma3ForConditionalGeneration"), WAN)]


def gradients(pair, inside: bool, checkpoint: bool, both: bool) -> list[Tensor]:
    """Of the bridges and both towers, after another pass has been visited otherwise."""
    joined = Joined(pair, inside, gate=0.7)
    for model in joined.models:
        model.requires_grad_(True)
        if checkpoint:
            checkpointed(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
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
    plain, again = (gradients(pair, inside, checkpoint, both) for checkpoint in (False, True))
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


def test_reentrant_checkpointing_is_refused():
    tower, run = opened(LM)
    checkpointed(tower.model.requires_grad_(True), reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"), visiting(tower, {1: lambda own: own.own}, True):
        run()
    assert traces(tower.model) == (0, [])


# Modes


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


@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
@pytest.mark.parametrize(("way", "backend"), [("in place", "eager"), ("wrapped", "aot_eager")])
def test_compiled_blocks_are_visited(way, backend, inside):
    torch._dynamo.reset()
    tower, run = opened(PIXART)
    model: Any = tower.model
    blocks = model.transformer_blocks
    with torch.no_grad():
        plain = tensors(run())
        if way == "in place":
            blocks[1].compile(backend=backend)
        else:
            blocks[1] = torch.compile(blocks[1], backend=backend)
        compiled = tensors(run())
        torch.testing.assert_close(compiled, plain)
        count = []
        with visiting(tower, {1: lambda own: count.append(1)}, inside):
            torch.testing.assert_close(tensors(run()), plain)
        assert count == [1]
        with visiting(tower, {1: lambda own: own.own + 1 if inside else own + 1}, inside):
            assert not torch.allclose(tensors(run()), plain)
        assert torch.equal(tensors(run()), compiled)
    assert traces(model) == (0, [])


def test_a_model_compiled_whole_is_refused():
    tower, _ = opened(PIXART)
    tower.model.compile(backend="eager")
    with pytest.raises(ValueError, match="compile the blocks one by one"), visiting(tower, {1: said}):
        pass


# Nothing left behind


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
