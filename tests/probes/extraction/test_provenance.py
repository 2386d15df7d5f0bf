"""Provenance: what tells two subjects apart, and what does not."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.provenance import made_of
from bridgework.probes.fingerprints.running_state import describe_model, fingerprint
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.subject import modules_of
from bridgework.tests.probes.toys import letters, open_toy


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(300, 300)  # more values than a fingerprint looks at
        self.register_buffer("saved", torch.arange(3.0))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def nudge(tensor: torch.Tensor, place: int) -> None:
    with torch.no_grad():
        tensor.view(-1)[place] += 1


@pytest.mark.parametrize(
    "change",
    [
        lambda model: nudge(model.linear.weight, 0),
        lambda model: nudge(model.linear.weight, -1),
        lambda model: nudge(model.linear.bias, 150),
        lambda model: nudge(model.saved, 1),
        lambda model: nudge(model.scratch, 1),
        lambda model: model.double(),
        lambda model: setattr(model.linear, "bias", None),
        lambda model: setattr(model, "linear", nn.Sequential(model.linear)),
        lambda model: setattr(model.linear, "weight", nn.Parameter(model.linear.weight.detach().view(150, 600))),
    ],
    ids=["first value", "last value", "bias", "buffer", "unsaved buffer", "dtype", "no bias", "name", "shape"],
)
def test_a_fingerprint_sees_what_changed(change):
    model, before = Small(), fingerprint(Small())
    assert fingerprint(model) == before
    change(model)
    assert fingerprint(model) != before


def test_flags_of_training_are_left_out():
    model, before = Small(), fingerprint(Small())
    model.eval().requires_grad_(False)
    assert fingerprint(model) == before


def tiny_bert(**settings) -> BertModel:
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=9, **size, **settings))


def test_class_config_and_revision_of_a_model():
    description = describe_model(tiny_bert())
    assert description["class"] == "transformers.models.bert.modeling_bert.BertModel"
    assert description["revision"] is None
    model = tiny_bert()
    model.config._name_or_path = f"hub/models--a--b/snapshots/{'ab' * 20}"
    assert describe_model(model)["revision"] == "ab" * 20
    assert describe_model(model)["config"] == description["config"]  # where it lies is not what it is
    assert describe_model(tiny_bert(layer_norm_eps=1e-3))["config"] != description["config"]
    assert describe_model(Small())["config"] is None


def test_every_module_that_a_subject_holds_counts():
    toy = open_toy()
    toy.encoder, toy.again = Small(), toy.model  # type: ignore[attr-defined]
    toy.pipe = SimpleNamespace(components={"vae": Small(), "model": toy.model, "scheduler": None})  # type: ignore[attr-defined]
    assert list(modules_of(toy)) == ["model", "encoder", "pipe.vae"]
    stimuli = letters("a", "b")
    before = made_of(toy, stimuli, {})
    nudge(toy.encoder.linear.weight, 0)  # type: ignore[attr-defined]
    after = made_of(toy, stimuli, {})
    changed = {name for name, model in before["subject"]["models"].items() if after["subject"]["models"][name] != model}
    assert changed == {"encoder"}


def test_plain_attributes_of_a_subject_count_and_others_do_not():
    toy, stimuli = open_toy(), letters("a", "b")
    toy.text_tokens, toy._calls, toy.helper = 20, 7, object()  # type: ignore[attr-defined]
    made = made_of(toy, stimuli, {"pooling": "mean"})
    assert made["subject"]["settings"]["text_tokens"] == 20
    assert made["subject"]["settings"]["blocks"] == ["layers.0", "layers.1", "layers.2"]
    assert not {"_calls", "helper", "model"} & made["subject"]["settings"].keys()
    assert (made["pooling"], made["stimuli"], made["stimuli_digest"]) == ("mean", "letters", stimuli.digest)
    assert json.loads(json.dumps(made)) == made


def llama(stack: str = "model.layers") -> AnyModel:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=128, **size)).eval()
    if stack.startswith("base_model"):
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        model.add_adapter("other", peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))

    def inputs(stimuli: Any, *_: Any) -> dict[str, torch.Tensor]:
        ids = [torch.tensor([ord(letter) for letter in stimulus.text]) for stimulus in stimuli]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return {"input_ids": padded, "attention_mask": (padded != 0).long()}

    return AnyModel(model, inputs, stack, modalities=("text",), name="llama")


def test_autocast_around_extract_is_recorded(tmp_path):
    extract(open_toy(), letters("a", "b"), store=tmp_path)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"made differently \(autocast: expected .torch.bfloat16., got null"),
    ):
        extract(open_toy(), letters("a", "b"), device="cpu", store=tmp_path)


def test_a_store_names_the_adapter_that_changed_and_without_adapters_it_is_the_base(tmp_path):
    stimuli = letters("ab", "cde", "f")
    subject = llama("base_model.model.model.layers")
    learnt = extract(subject, stimuli, store=tmp_path / "learnt")["text"].values
    adapters: Any = subject.model
    adapters.set_adapter("other")
    with pytest.raises(ValueError, match=r"made differently \(subject\.models\.model\.adapters\.active_adapter: "):
        extract(subject, stimuli, store=tmp_path / "learnt")
    adapters.set_adapter("default")
    with adapters.disable_adapter():
        with pytest.raises(ValueError, match=r"adapters\.adapters_disabled: expected true, got false"):
            extract(subject, stimuli, store=tmp_path / "learnt")
        off = extract(subject, stimuli, store=tmp_path / "off")["text"].values
    assert torch.equal(off, extract(llama(), stimuli)["text"].values)
    assert not torch.equal(off, learnt)
    assert torch.equal(extract(subject, stimuli, store=tmp_path / "learnt")["text"].values, learnt)


def test_a_store_names_the_hook_that_steers_and_the_hook_stays(tmp_path):
    stimuli, subject = letters("ab", "cde", "f"), llama()
    plain = extract(subject, stimuli, store=tmp_path / "plain")["text"].values
    block = subject.model.get_submodule("model.layers.1")
    handle = block.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(ValueError, match=r"interventions\.a hook on model\.layers\.1: expected"):
        extract(subject, stimuli, store=tmp_path / "plain")
    steered = extract(subject, stimuli, store=tmp_path / "steered")["text"].values
    assert torch.equal(steered[:2], plain[:2])  # embeddings and block 0
    assert all(not torch.allclose(steered[layer], plain[layer], atol=1e-2) for layer in (2, 3))
    assert len(block._forward_hooks) == 1
    handle.remove()
    assert torch.equal(extract(subject, stimuli, store=tmp_path / "plain")["text"].values, plain)
