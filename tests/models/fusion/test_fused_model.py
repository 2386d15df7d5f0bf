"""Fusion: nothing but the gates lets text in, only bridges learn, and the towers are left as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bridgework.figures import layer_map
from bridgework.models.bridges.cross_attention import CrossAttention
from bridgework.models.bridges.soft_attention import SoftAttention
from bridgework.models.fusion import two_towers
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.towers.tower import BlockWidths
from bridgework.models.training.train_model import train
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.choosing import choose_bridges

CAPTIONS = ["a red circle", "three blue crosses and a very long black square top left", "a ring"]


def noisy_rows(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The same image at the same time in every row, so that rows differ by their captions alone."""
    noisy = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return noisy.expand(count, -1, -1, -1), torch.full((count,), 0.7)


def opened(fused: FusedModel) -> FusedModel:
    """Gates far from 0, maps at random: what training might reach."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in fused.bridges.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
        for gate in gates(fused):
            gate.fill_(0.8)
    return fused


def gates(fused: FusedModel) -> list[torch.Tensor]:
    return [parameter for name, parameter in fused.bridges.named_parameters() if name.endswith("gate")]


def traces(fused: FusedModel) -> tuple[int, int]:
    """Function modes entered and hooks registered: both 0 when nothing was left behind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    hooks = sum(len(getattr(module, kind)) for module in fused.modules() for kind in kinds)
    return torch._C._len_torch_function_stack(), hooks


@pytest.mark.parametrize("stream", ["image", "text", "both"])
@torch.no_grad()
def test_closed_gates_are_the_untouched_expert(fuse, plan, stream):
    fused = fuse(replace(plan, stream=stream))
    noisy, time = noisy_rows()
    time = torch.tensor([0.2, 0.5, 0.9])
    expert = fused.experts[1]
    untouched = expert.predict(noisy, expert.encode([""] * 3), time)
    assert torch.equal(fused.predict(noisy, fused.condition(CAPTIONS), time), untouched)
    assert torch.equal(fused.predict(noisy, fused.condition(CAPTIONS[::-1]), time), untouched)
    assert untouched.std() > 0.01


@pytest.mark.parametrize("stream", ["image", "text", "both"])
@torch.no_grad()
def test_swapping_captions_swaps_outputs(fuse, plan, stream):
    fused = opened(fuse(replace(plan, stream=stream)))
    noisy, time = noisy_rows()
    out = fused.predict(noisy, fused.condition(CAPTIONS), time)
    order = [2, 0, 1]
    swapped = fused.predict(noisy, fused.condition([CAPTIONS[i] for i in order]), time)
    torch.testing.assert_close(swapped, out[order], rtol=0, atol=1e-6)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (out[one] - out[other]).abs().max() > 1e-3


@torch.no_grad()
def test_streams_differ(fuse, plan):
    noisy, time = noisy_rows()
    outs = []
    for stream in ("image", "text", "both"):
        fused = opened(fuse(replace(plan, stream=stream)))
        outs.append(fused.predict(noisy, fused.condition(CAPTIONS), time))
    assert not torch.allclose(outs[0], outs[1], atol=1e-4)
    assert not torch.allclose(outs[0], outs[2], atol=1e-4)
    assert not torch.allclose(outs[1], outs[2], atol=1e-4)


@torch.no_grad()
def test_text_comes_through_the_bridges_alone(fuse, plan):
    fused = opened(fuse(plan))

    def refuse(*args, **kwargs):
        raise AssertionError("the generator's own text encoder was asked")

    fused.text_encoder.forward = refuse
    noisy, time = noisy_rows()
    out = fused.predict(noisy, fused.condition(CAPTIONS), time)
    for gate in gates(fused)[:-1]:
        gate.zero_()
    one = fused.predict(noisy, fused.condition(CAPTIONS), time)
    assert not torch.allclose(one, out, atol=1e-4)
    assert not torch.allclose(one[0], one[1], atol=1e-4)
    gates(fused)[-1].zero_()
    none = fused.predict(noisy, fused.condition(CAPTIONS), time)
    assert torch.equal(none[0], none[1])


@torch.no_grad()
def test_padding_of_other_rows_does_not_matter(fuse, plan):
    fused = opened(fuse(plan))
    noisy, time = noisy_rows()
    together = fused.predict(noisy, fused.condition(CAPTIONS), time)
    for row, caption in enumerate(CAPTIONS):
        alone = fused.predict(noisy[:1], fused.condition([caption]), time[:1])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


@torch.no_grad()
def test_condition_keeps_what_the_planned_blocks_attend_to(fuse, plan):
    fused = fuse(plan)
    states = fused.condition(CAPTIONS)
    tokens = 1 + len(fused.experts[0].tokenizer(CAPTIONS[1], add_special_tokens=False).input_ids)
    assert len(states.handed) == 3
    for key, value in states.handed:
        assert key.shape == value.shape == (3, 4, tokens, 4)  # two key heads serve four query heads
        assert torch.equal(key[:, 0], key[:, 1])
        assert not torch.equal(key[:, 1], key[:, 2])
    assert states.mask.sum(1).tolist() == [4, tokens, 3]
    other = fuse(replace(plan, pairs=((1, 0), (2, 1), (3, 2)))).condition(CAPTIONS)
    assert not torch.equal(states.handed[0].value, other.handed[0].value)
    assert torch.equal(states.handed[1].value, other.handed[1].value)


def test_only_bridges_learn(fuse, plan):
    fused = opened(fuse(plan)).train()
    assert {name.split(".")[0] for name, p in fused.named_parameters() if p.requires_grad} == {"bridges"}
    assert fused.bridges.training
    assert not any(tower.training for tower in (fused.understanding, fused.generation, fused.text_encoder))
    before = {name: p.clone() for name, p in fused.named_parameters()}
    noisy, time = noisy_rows()
    optimizer = torch.optim.SGD([p for p in fused.parameters() if p.requires_grad], 0.1)
    fused.predict(noisy, fused.condition(CAPTIONS), time).square().sum().backward()
    for name, parameter in fused.named_parameters():
        if name.startswith("bridges"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    optimizer.step()
    moved = {name.split(".")[0] for name, p in fused.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"bridges"}


def test_one_step_opens_every_gate_and_lets_text_in(fuse, plan):
    fused = fuse(plan).train()
    noisy, time = noisy_rows()
    target = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    loss = (fused.predict(noisy, fused.condition(CAPTIONS), time) - target).square().sum()
    loss.backward()
    with torch.no_grad():
        for bridge in fused.bridges:
            assert bridge.gate.grad.abs().max() > 0
            bridge.gate -= 0.5 * bridge.gate.grad / bridge.gate.grad.abs().max()
        out = fused.predict(noisy, fused.condition(CAPTIONS), time)
        swapped = fused.predict(noisy, fused.condition(CAPTIONS[::-1]), time)
    assert (out[0] - out[1]).abs().max() > 1e-5
    torch.testing.assert_close(swapped, out.flip(0), rtol=0, atol=1e-6)


def test_generation_gets_no_gradient_from_the_understanding_tower(fuse, plan):
    fused = opened(fuse(plan)).train()
    noisy, time = noisy_rows()
    fused.predict(noisy, fused.condition(CAPTIONS), time).square().sum().backward()
    assert all(p.grad is None for p in fused.understanding.parameters())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["before attention", "after attention", "in the bridge", "outside the blocks"])
@torch.no_grad()
def test_nothing_is_left_behind(fuse, plan, error, place):
    fused = opened(fuse(plan))
    noisy, time = noisy_rows()
    text = fused.condition(CAPTIONS)
    out = fused.predict(noisy, text, time)

    def fail(*args, **kwargs):
        raise error("stop")

    block = fused.generation.transformer_blocks[1]
    module = {
        "before attention": block.norm1,
        "after attention": block.ff,
        "in the bridge": fused.bridges[1],
        "outside the blocks": fused.generation.norm_out,
    }[place]
    forward = module.forward
    module.forward = fail
    with pytest.raises(error, match="stop"):
        fused.predict(noisy, text, time)
    assert traces(fused) == (0, 0)
    module.forward = forward
    assert torch.equal(fused.predict(noisy, text, time), out)

    module = fused.understanding.get_submodule(fused.experts[0].blocks[2]).mlp
    forward, module.forward = module.forward, fail
    with pytest.raises(error, match="stop"):
        fused.condition(CAPTIONS)
    assert traces(fused) == (0, 0)
    module.forward = forward
    assert torch.equal(fused.predict(noisy, fused.condition(CAPTIONS), time), out)


@torch.no_grad()
def test_the_generator_alone_is_untouched(fuse, plan):
    fused = opened(fuse(plan))
    noisy, time = noisy_rows()
    expert = fused.experts[1]
    before = expert.predict(noisy, expert.encode(CAPTIONS), time)
    fused.predict(noisy, fused.condition(CAPTIONS), time)
    assert torch.equal(expert.predict(noisy, expert.encode(CAPTIONS), time), before)
    assert traces(fused) == (0, 0)


def test_a_block_that_does_not_call_sdpa(make_experts, plan):
    understanding, generation = make_experts()
    understanding.model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"layers.0' .*attn_implementation"):
        FusedModel(understanding, generation, plan)
    assert FusedModel(understanding, generation, replace(plan, layout="double fusion")).condition(["a ring"])


def test_saved_and_loaded(fuse, make_experts, plan, tmp_path):
    fused = opened(fuse(plan))
    fused.save(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"bridges.safetensors", "plan.json"}
    again = FusedModel.load(tmp_path / "run", *make_experts())
    assert again.plan == plan
    assert fused.bridges.state_dict().keys() == again.bridges.state_dict().keys()
    for name, tensor in fused.bridges.state_dict().items():
        assert torch.equal(tensor, again.bridges.state_dict()[name])
    noisy, time = noisy_rows()
    with torch.no_grad():
        outs = [model.predict(noisy, model.condition(CAPTIONS), time) for model in (fused, again)]
    assert torch.equal(*outs)


def test_broken_bridges_are_refused(fuse, plan, tmp_path):
    fused = fuse(plan)
    with pytest.raises(FileNotFoundError, match="no bridge plan"):
        FusedModel.load(tmp_path, *fused.experts)
    fused.save(tmp_path)
    path = tmp_path / "bridges.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:100], whole[:-10], b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="does not hold the bridges of its plan") as raised:
            FusedModel.load(tmp_path, *fused.experts)
        assert str(path) in str(raised.value)
        assert raised.value.__suppress_context__
    fuse(replace(plan, pairs=((0, 0),))).save(tmp_path)
    plan.save(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="does not hold the bridges of its plan"):
        FusedModel.load(tmp_path, *fused.experts)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no bridges in .*: expected bridges.safetensors beside plan.json"):
        FusedModel.load(tmp_path, *fused.experts)


def test_what_does_not_fit_is_refused(tiny_vlm, tiny_dit, plan):
    with pytest.raises(ValueError, match="the layout 'shared' has one trunk and no bridges: build a UnifiedModel"):
        FusedModel(tiny_vlm, tiny_dit, BridgePlan(((0, 0),), "image", "all", {}, 1, 1, layout="shared"))
    with pytest.raises(
        TypeError, match=r"one that draws \(a DitExpert\), in this order, got DitExpert and LlavaExpert"
    ):
        FusedModel(tiny_dit, tiny_vlm, plan)
    deeper = BridgePlan(((0, 0),), "image", "all", {}, 16, 13)
    with pytest.raises(ValueError, match=r"towers of 16 and 13 blocks, .* and .* have 4 and 3"):
        FusedModel(tiny_vlm, tiny_dit, deeper)


def test_blocks_that_are_no_stack_are_refused(make_experts, plan):
    understanding, generation = make_experts()
    understanding.blocks = understanding.blocks[:3]
    with pytest.raises(ValueError, match=r"the 3 blocks of tiny-vlm are no whole stack of its model, which has "):
        FusedModel(understanding, generation, plan)


def soft(**changes) -> BridgePlan:
    return BridgePlan(((3, 0), (3, 2)), "image", "published", {}, 4, 3, layout="soft", **changes)


@pytest.mark.parametrize("taps", [None, (1, 3), ((0, 2), (1, 2, 3))])
@torch.no_grad()
def test_a_mix_is_of_the_blocks_that_the_plan_names(fuse, taps):
    """Each block's state is read by hooks, normalised and mixed by hand."""
    fused = opened(fuse(soft(taps=taps)))
    with capture(fused.experts[0].model, fused.experts[0].blocks, stop=False) as states:
        handed = fused.condition(CAPTIONS).handed
    for number, bridge in enumerate(fused.bridges):
        assert isinstance(bridge, SoftAttention)
        blocks = fused.plan.mixed_blocks(number)
        read = [states[fused.experts[0].blocks[block]] for block in blocks]
        normed = torch.stack([torch.nn.functional.layer_norm(state, (16,)) for state in read])
        mixed = (bridge.mix.softmax(0)[:, None, None, None] * normed).sum(0)
        offered = CrossAttention.keys_values(bridge, 0, mixed)
        torch.testing.assert_close(handed[number].key, offered.key)
        torch.testing.assert_close(handed[number].value, offered.value)


def test_learnt_weights_are_a_map_that_chooses(fuse, make_experts, tmp_path):
    fused = fuse(soft(taps=(0, 1, 3)))
    first = fused.layer_weights()
    assert (list(first.index), list(first.columns)) == (list("0123"), list("012"))
    expected = np.array([[1 / 3, np.nan, 1 / 3]] * 2 + [[np.nan] * 3] + [[1 / 3, np.nan, 1 / 3]])
    np.testing.assert_allclose(first, expected)
    assert first.attrs["metric"] == "soft" and first.attrs["chance"] == pytest.approx(1 / 3)
    train(fused, tmp_path / "run", 3, batch_size=4, validate=0)
    learnt = fused.layer_weights()
    np.testing.assert_allclose(learnt.sum()[["0", "2"]], 1)
    assert (learnt - first).abs().max().max() > 1e-4
    again = FusedModel.load(tmp_path / "run", *make_experts())
    assert again.plan.taps == ((0, 1, 3),)
    assert again.layer_weights().equals(learnt)
    with torch.no_grad():
        fused.bridges.get_parameter("1.mix").copy_(torch.tensor([0.0, 3.0, 0.0]))
    chosen = choose_bridges(fused.layer_weights(), "soft", 1)
    assert (chosen.pairs, chosen.evidence["cost"]) == (((1, 2),), {"steps": 3})
    assert chosen.score == pytest.approx(float(np.exp(3) / (np.exp(3) + 2)))
    assert layer_map(learnt, chosen).axes


def test_other_layouts_have_no_layer_weights(fuse, plan):
    with pytest.raises(ValueError, match="the layout 'H' mixes no layers: layer weights are of 'soft'"):
        fuse(plan).layer_weights()


def test_blocks_of_unlike_width_cannot_be_mixed(fuse, monkeypatch):
    def widths(tower, run, layers, inside):
        return {layer: BlockWidths(16 + layer) for layer in layers}

    monkeypatch.setattr(two_towers, "measure", widths)
    with pytest.raises(ValueError, match="'soft' mixes are 17, 19 wide: mix blocks of one width, as taps"):
        fuse(soft(taps=(1, 3)))
