"""What of an expert is trained: adapters in its blocks, and in no others of the same name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from diffusers.models.attention import JointTransformerBlock
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from bridgework.models.fusion import trained_parts
from bridgework.models.fusion.trained_parts import adapt, adapt_towers
from bridgework.probes.hooks.block_stacks import find_stacks


class TwoStacks(nn.Module):
    """Blocks at the top, and a vision tower's whose paths end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.vision = self.stack(), nn.Module()
        self.vision.layers = self.stack()

    def stack(self) -> nn.ModuleList:
        return nn.ModuleList(nn.ModuleDict({"query": nn.Linear(4, 4)}) for _ in range(2))


def test_adapters_stand_in_the_blocks_alone():
    model = TwoStacks()
    adapt(model, ["layers.0", "layers.1"], "lora", rank=2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 4
    assert all(name.startswith("layers.") and "lora_" in name for name in trained)


@pytest.mark.parametrize(("trained", "share"), [("bridges", False), ("all", True)])
def test_all_or_nothing_of_a_tower_is_trained(trained, share):
    model = TwoStacks()
    adapt(model, ["layers.0", "layers.1"], trained)
    assert {parameter.requires_grad for parameter in model.parameters()} == {share}


def test_blocks_without_a_linear_layer_are_refused():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Conv2d(1, 1, 1)])})
    with pytest.raises(ValueError, match="the blocks of ModuleDict have no linear layer: train 'bridges' or 'all'"):
        adapt(model, ["blocks.0"], "lora")


SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3}
HEADS = {"intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
GROUPS = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
RANKS = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
LINEAR = {f"linear_{name}": 4 for name in ("num_value_heads", "num_key_heads", "key_head_dim", "value_head_dim")}
QWEN = {**SIZES, **HEADS, **EXPERTS, **LINEAR, "num_experts": 4, "shared_expert_intermediate_size": 8}
MAMBA2 = {**SIZES, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1}
# By model: its sizes, how many linear layers its blocks have, how many take an adapter, and what has none.
MODELS: dict[str, tuple[dict[str, Any], int, int, str]] = {
    "Llama": ({**SIZES, **HEADS}, 21, 21, ""),
    "Qwen3Next": (QWEN, 21, 21, r"\d+ % .* \(mlp.experts.gate_up_proj, mlp.experts.down_proj, .*21 linear layers"),
    "DeepseekV3": ({**SIZES, **HEADS, **EXPERTS, **GROUPS, **RANKS}, 24, 24, "mlp.experts.gate_up_proj"),
    "Glm4Moe": ({**SIZES, **HEADS, **EXPERTS, **GROUPS}, 21, 21, "mlp.experts.gate_up_proj"),
    "Mixtral": ({**SIZES, **HEADS, "num_local_experts": 4}, 12, 12, "mlp.experts.gate_up_proj"),
    "Mamba": ({**SIZES, "state_size": 4}, 12, 3, "mixer.out_proj.weight"),
    "Mamba2": (MAMBA2, 6, 3, "mixer.out_proj.weight"),
    "GPT2": ({"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2}, 12, 12, ""),
}


def built(name: str) -> tuple[nn.Module, list[str]]:
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**MODELS[name][0])).eval()
    return model, max(find_stacks(model).values(), key=len)


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_that_was_asked_for_has_an_adapter_and_the_rest_is_said(name):
    (model, blocks), (_, linear, adapted, said) = built(name), MODELS[name]
    kinds = (nn.Linear, transformers.pytorch_utils.Conv1D)
    assert sum(isinstance(part, kinds) for block in blocks for part in model.get_submodule(block).modules()) == linear
    ids = torch.arange(5)[None]
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if said:
            with pytest.warns(UserWarning, match=rf"{name}Model have no adapters .*{said}|{said}"):
                adapt(model, blocks, "lora", rank=2)
        else:
            adapt(model, blocks, "lora", rank=2)
    found = [path for path, part in model.named_modules() if isinstance(part, BaseTunerLayer)]
    assert len(found) == adapted
    assert {block for block in blocks if any(path.startswith(f"{block}.") for path in found)} == set(blocks)
    after = model(input_ids=ids, use_cache=False)[0]
    assert torch.equal(after, before)
    after.square().sum().backward()
    trained = {path: p for path, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * adapted
    assert all("lora_" in path for path in trained)
    assert sum(p.grad is not None and bool(p.grad.any()) for p in trained.values()) >= adapted - 3  # B alone, at first


def unchanged(model: nn.Module) -> Callable[[], bool]:
    """What tells later whether a model is as it is now: modules, flags and values."""

    def state() -> tuple[Any, ...]:
        modules = [(path, type(module), id(module)) for path, module in model.named_modules()]
        return modules, [(path, id(p), p.requires_grad) for path, p in model.named_parameters()]

    before, values = state(), {path: p.detach().clone() for path, p in model.named_parameters()}
    return lambda: state() == before and all(torch.equal(p, values[path]) for path, p in model.named_parameters())


def test_a_second_adapt_is_refused_before_anything_changes():
    model, blocks = built("Llama")
    adapt(model, blocks, "lora", rank=2)
    as_before = unchanged(model)
    for trained in ("lora", "all"):
        with pytest.raises(ValueError, match=r"LlamaModel has adapters already .* open it again, or merge them first"):
            adapt(model, blocks, trained, rank=4)
        assert as_before()


def test_both_towers_are_adapted_or_none(monkeypatch):
    (first, first_blocks), (second, second_blocks) = built("Llama"), built("GPT2")
    first.requires_grad_(False)
    as_before = unchanged(first), unchanged(second)
    inject, calls = trained_parts.inject_adapter_in_model, []

    def failing(config: Any, model: nn.Module) -> None:
        calls.append(model)
        inject(config, model)
        if len(calls) == 2:
            raise ValueError("a module is not supported " * 1000)

    monkeypatch.setattr(trained_parts, "inject_adapter_in_model", failing)
    with pytest.raises(ValueError, match="GPT2Model takes no adapters, and is as it was") as raised:
        adapt_towers([(first, first_blocks), (second, second_blocks)], "lora", 2)
    assert len(str(raised.value)) < 400
    assert all(same() for same in as_before)


def test_two_stacks_of_one_model_are_trained_both():
    model = TwoStacks()
    adapt_towers([(model, ["layers.0", "layers.1"]), (model, ["vision.layers.0", "vision.layers.1"])], "lora", 2)
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 8


class Block(nn.Module):
    """Torch's own attention takes the weight of its last map, so that an adapter would never be called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.map = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)
        nn.init.zeros_(self.map.weight)


def test_a_layer_whose_weight_is_taken_without_a_call_has_no_adapter():
    model = nn.ModuleDict({"layers": nn.ModuleList([Block()])})
    with pytest.warns(UserWarning, match=r"no adapters \(attention.in_proj_weight, attention.out_proj.weight\)"):
        adapt(model, ["layers.0"], "lora", 2)
    found = [path for path, part in model.named_modules() if isinstance(part, BaseTunerLayer)]
    assert found == ["layers.0.map"]
    bare = nn.ModuleDict({"layers": nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])})
    with pytest.raises(ValueError, match="no linear layer that is called: they take its weight"):
        adapt(bare, ["layers.0"], "lora", 2)


def test_layers_that_only_name_their_weights_keep_their_adapters():
    """T5 asks for the dtype of one, diffusers' attention can fuse three."""
    sizes = {"vocab_size": 8, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = transformers.T5EncoderModel(transformers.T5Config(**sizes))
    adapt(model, ["encoder.block.0"], "lora", 2)
    assert sum(isinstance(part, BaseTunerLayer) for part in model.modules()) == 6
    dual = JointTransformerBlock(8, 2, 4)
    adapt(nn.ModuleDict({"blocks": nn.ModuleList([dual])}), ["blocks.0"], "lora", 2)
    assert isinstance(dual.attn.to_q, BaseTunerLayer)
