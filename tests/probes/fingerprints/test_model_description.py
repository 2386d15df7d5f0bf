"""Descriptions of models: each kind of change shows under the name of what changed, and running changes nothing."""

from __future__ import annotations

import functools
import linecache
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import accelerate
import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, modeling_utils
from transformers.models.llama import modeling_llama

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.probes.fingerprints.running_state import describe_model, within_passes


def llama(**settings: Any) -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=200, num_key_value_heads=2, **size, **settings)).eval()


def adapted() -> Any:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    model.add_adapter("other", peft.LoraConfig(r=4, target_modules=["v_proj"], init_lora_weights=False))
    return model.eval()


def rescale(model: nn.Module, scale: float) -> None:
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(scale)


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The entries that differ, with dotted names."""
    found = set()
    for key in before.keys() | after.keys():
        one, two = before.get(key), after.get(key)
        if isinstance(one or two, dict):
            one, two = one or {}, two or {}
            found |= {f"{key}.{name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
        elif one != two:
            found.add(key)
    return found


def ids(length: int = 5) -> torch.Tensor:
    return torch.arange(length)[None] + 3


VECTOR = torch.ones(32)


def adds(vector: Any) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return output + vector

    return hook


def adds_a_global(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output + VECTOR


class Steering:
    def __init__(self, strength: float) -> None:
        self.strength, self.vector = strength, torch.ones(32)

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output + self.strength * self.vector


def without_gate(self: Any, states: torch.Tensor) -> torch.Tensor:
    return self.down_proj(self.up_proj(states))


def replace_forward(module: nn.Module, function: Callable[..., Any]) -> None:
    module.forward = types.MethodType(function, module)


def hooked(hook: Callable[..., Any]) -> Any:
    model = llama()
    model.model.layers[1].register_forward_hook(hook)
    return model


def edited(edit: Callable[[Any], Any], make: Callable[[], Any] = llama) -> Callable[[], Any]:
    """A model that was described, and edited afterwards in the same process."""

    def make_edited() -> Any:
        model = make()
        describe_model(model)
        with torch.no_grad():
            edit(model)
        return model

    return make_edited


HOOK, BLOCK = {"interventions.a hook on model.layers.1"}, "weights.model.layers.1"
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any], set[str]]] = {
    "a hook": (llama, lambda: hooked(adds(1.0)), HOOK),
    "a hook's vector": (lambda: hooked(adds(torch.ones(32))), lambda: hooked(adds(torch.zeros(32))), HOOK),
    "a hook's number": (lambda: hooked(adds(1.0)), lambda: hooked(adds(2.0)), HOOK),
    "a hook of an object": (lambda: hooked(Steering(1.0).hook), lambda: hooked(Steering(2.0).hook), HOOK),
    "a partial hook": (
        lambda: hooked(functools.partial(lambda x, m, i, o: o + x, 1.0)),
        lambda: hooked(functools.partial(lambda x, m, i, o: o + x, 2.0)),
        HOOK,
    ),
    "a hook in front": (
        llama, edited(lambda m: m.model.layers[1].register_forward_pre_hook(lambda m, args: args)), HOOK,
    ),
    "a patched forward": (
        llama,
        edited(lambda m: replace_forward(m.model.layers[1].mlp, without_gate)),
        {"interventions.forward of model.layers.1.mlp"},
    ),
    "a wrapped forward": (
        llama,
        edited(lambda m: setattr(m.model.norm, "forward", functools.wraps(m.model.norm.forward)(lambda x: x))),
        {"interventions.forward of model.norm"},
    ),
    "an epsilon": (
        llama, edited(lambda m: setattr(m.model.norm, "variance_epsilon", 0.1)), {"settings.LlamaRMSNorm"},
    ),
    "a scale": (
        llama, edited(lambda m: setattr(m.model.layers[0].self_attn, "scaling", 0.1)), {"settings.LlamaAttention"},
    ),
    "an activation": (
        llama, edited(lambda m: setattr(m.model.layers[0].mlp, "act_fn", nn.GELU())),
        {"settings.GELU", "settings.SiLUActivation"},
    ),
    "a rotary base": (
        lambda: llama(rope_theta=1e4), edited(lambda m: m.model.rotary_emb.inv_freq.mul_(0.5)),
        {"weights.model.rotary_emb"},
    ),
    "a neuron, past autograd": (
        llama, edited(lambda m: m.model.layers[1].mlp.up_proj.weight.data[7].add_(1)), {f"{BLOCK}.mlp"},
    ),
    "a word": (
        llama, edited(lambda m: m.model.embed_tokens.weight.data[77].add_(1)), {"weights.model.embed_tokens"},
    ),
    "one weight": (
        llama, edited(lambda m: m.model.layers[1].self_attn.q_proj.weight[3, 9].add_(1)), {f"{BLOCK}.self_attn"},
    ),
    "an adapter off": (
        adapted, edited(lambda m: m.base_model.disable_adapter_layers(), adapted), {"adapters.disable_adapters"},
    ),
    "an adapter switched": (adapted, edited(lambda m: m.set_adapter("other"), adapted), {"adapters.active_adapter"}),
    "an adapter rescaled": (adapted, edited(lambda m: rescale(m, 3.0), adapted), {"adapters.scaling"}),
    "attention": (llama, lambda: llama(attn_implementation="eager"), {"attention"}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "change", "names"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_named_and_the_same_made_again_is_the_same(make, change, names):
    before = describe_model(make())
    assert changed(before, describe_model(make())) == set()
    assert changed(before, describe_model(change())) == names


def test_a_global_that_a_hook_uses(monkeypatch):
    before = describe_model(hooked(adds_a_global))
    monkeypatch.setitem(globals(), "VECTOR", torch.zeros(32))
    assert changed(before, describe_model(hooked(adds_a_global))) == HOOK


def test_a_class_that_is_patched(monkeypatch):
    before = describe_model(llama())
    monkeypatch.setattr(type(llama().model.layers[0].mlp), "forward", without_gate)
    assert changed(before, describe_model(llama())) == {"interventions.forward of LlamaMLP"}


def test_functions_of_libraries_that_are_patched_or_registered(monkeypatch):
    before = describe_model(llama())
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, *_, **__: (q, k))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, **_: v)
    assert changed(before, describe_model(llama())) == {
        "interventions.apply_rotary_pos_emb of transformers.models.llama.modeling_llama",
        "interventions.scaled_dot_product_attention of torch.nn.functional",
    }
    monkeypatch.undo()
    found = []
    for scale in (1, 2):
        own = {"own": lambda _, q, k, v, mask, scale=scale, **__: (scale * v, None)}
        monkeypatch.setattr(modeling_utils.ALL_ATTENTION_FUNCTIONS, "_local_mapping", own)
        model = llama()
        model.config._attn_implementation = "own"
        found.append(describe_model(model))
    assert changed(*found) == {"interventions.ALL_ATTENTION_FUNCTIONS['own']"}


def test_disable_adapters_of_transformers():
    model = llama()
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    before = describe_model(model)
    model.disable_adapters()
    assert changed(before, describe_model(model)) == {"adapters.disable_adapters"}
    model.enable_adapters()
    assert describe_model(model) == before


def quantised(edit: Callable[[Any], Any] = lambda model: None) -> Any:
    model = llama()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edit(model)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


def test_packed_weights_of_dynamic_int8():
    before = describe_model(quantised())
    assert describe_model(quantised()) == before
    other = describe_model(quantised(lambda m: m.model.layers[1].mlp.up_proj.weight.neg_()))
    assert changed(before, other) == {f"{BLOCK}.mlp"}


class Scaled(nn.Module):
    """A module with state of its own kind, beside parameters and buffers."""

    held = 0.0

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self._hidden = object()
        type(self).held = scale

    def get_extra_state(self) -> Any:
        return {"scale": torch.tensor(type(self).held)}

    def set_extra_state(self, state: Any) -> None:
        type(self).held = state["scale"]


def test_extra_state_and_the_code_of_own_classes():
    torch.manual_seed(0)
    module = Scaled(1.0)
    before = describe_model(module)
    module.set_extra_state({"scale": 2.0})
    assert changed(before, describe_model(module)) == {"weights._extra_state", "code.Scaled"}  # its class holds it
    module.set_extra_state({"scale": 1.0})
    Scaled.scaled_twice = lambda self: 2 * self.held  # type: ignore[attr-defined]
    assert changed(before, describe_model(module)) == {"code.Scaled"}
    del Scaled.scaled_twice  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "treat",
    [
        lambda m: m.compile(),
        lambda m: accelerate.cpu_offload(m, execution_device="cpu"),
        lambda m: accelerate.dispatch_model(m, {"": "cpu"}, main_device="cpu", force_hooks=True),
        lambda m: (m.train(), m.activation_checkpointing_enable(), m.enable_input_require_grads()),
        lambda m: m.requires_grad_(False),
        lambda m: m(ids(), output_hidden_states=True),  # leaves hooks behind that record
        lambda m: m.generate(ids(), max_new_tokens=2, do_sample=False),
    ],
    ids=["compiled", "offloaded", "dispatched", "trained", "frozen", "recorded", "generated"],
)
def test_what_changes_no_value_does_not_count(treat):
    model, before = llama(), describe_model(llama())
    treat(model)
    assert changed(before, describe_model(model)) == set()


def test_a_compiled_model_is_the_model():
    assert describe_model(torch.compile(llama())) == describe_model(llama())  # type: ignore[arg-type]


def test_what_passes_change_is_put_aside_and_an_edit_is_not():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model, seen = llama(max_position_embeddings=16, rope_parameters=rope), []
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    before = describe_model(model)
    with within_passes(model), torch.no_grad():
        model(ids(40))
    assert len(seen) == 1
    assert not torch.equal(model.model.rotary_emb.inv_freq, model.model.rotary_emb.original_inv_freq)
    assert changed(before, describe_model(model)) == set()
    model.model.rotary_emb.inv_freq.mul_(2)
    assert changed(before, describe_model(model)) == {"weights.model.rotary_emb"}


@pytest.mark.parametrize("name", ["Qwen2_5_VLForConditionalGeneration", "FluxTransformer2DModel"])
def test_a_pass_changes_nothing(name):
    built = ZOO[name][1]()
    before = describe_model(built.model.eval())
    with torch.no_grad():
        built.model(**built.inputs)
    assert changed(before, describe_model(built.model)) == set()


IN_ANY_PROCESS = """
import torch
from bridgework.probes.fingerprints.running_state import fingerprint

class Gated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.gate, self.names = torch.nn.GRU(3, 4), torch.nn.functional.gelu, {"a", "b", "c"}
        self.kinds, self.dtype, self.other = {torch.float32: (1, 2.5)}, torch.bfloat16, object()

    def forward(self, states):
        return self.gate(self.inner(states)[0])

model = Gated()
model.inner.register_forward_hook(lambda module, inputs, output, by=torch.ones(3): output)
model.register_forward_hook(print)
found = fingerprint(model)
"""


def test_another_process_finds_the_same(monkeypatch):
    text = "other code\n" * 50  # of another text that was run from memory
    monkeypatch.setitem(linecache.cache, "<string>", (len(text), None, text.splitlines(True), "<string>"))
    here: dict[str, Any] = {"__name__": "__main__"}
    exec(IN_ANY_PROCESS, here)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANY_PROCESS + "print(found)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [here["found"]]
