"""A fused model as a subject: text reaches its features through the bridges, and through nothing else."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bridgework.models.experts.language import TextExpert
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.fusion.probe_subject import fused_subject
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli


def other_texts(stimuli: Stimuli) -> Stimuli:
    """Longer by the same, so that they are sorted into the same batches: last bits depend on these."""
    return Stimuli([s._replace(text=f"{s.text} , a ring") for s in stimuli])


def open_gates(fused: FusedModel) -> FusedModel:
    with torch.no_grad():
        for bridge in fused.bridges:
            bridge.get_parameter("gate").fill_(1.0)
    return fused


@pytest.fixture
def fused(fuse, plan):
    return open_gates(fuse(plan))


@pytest.fixture(scope="module")
def language_model(tokenizer) -> TextExpert:
    """A causal language model without eyes, as SmolLM2 is one."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    blocks = tuple(f"model.layers.{number}" for number in range(4))
    return TextExpert("tiny-lm", LlamaForCausalLM(config).eval(), tokenizer, blocks, causal=True)


def test_understanding_is_the_expert_itself(fused, stimuli, tiny_vlm):
    subject = fused_subject(fused, "understanding")
    assert (subject.name, subject.tasks) == ("fused", ("understanding",))
    seen, expert = extract(subject, stimuli), extract(tiny_vlm, stimuli)
    for modality in ("image", "text"):
        assert torch.equal(seen[modality].values, expert[modality].values)


def test_understanding_may_be_any_expert(language_model, tiny_dit, plan, stimuli):
    subject = fused_subject(FusedModel(language_model, tiny_dit, plan), "understanding")
    assert (subject.name, subject.modalities, language_model.name) == ("fused", ("text",), "tiny-lm")
    assert torch.equal(extract(subject, stimuli)["text"].values, extract(language_model, stimuli)["text"].values)


def test_understanding_may_be_an_expert_of_the_users_own(language_model, tiny_dit, plan, stimuli):
    class Own:
        """No dataclass."""

        name: str

        def __init__(self) -> None:
            for name, value in vars(language_model).items():
                setattr(self, name, value)

        def show(self, *given: Any) -> Any:
            return TextExpert.show(self, *given)  # type: ignore[arg-type]

        _lengths = TextExpert._lengths

    expert = Own()
    subject = fused_subject(FusedModel(expert, tiny_dit, plan), "understanding")
    assert (subject.name, expert.name) == ("fused", "tiny-lm")
    assert torch.equal(extract(subject, stimuli)["text"].values, extract(language_model, stimuli)["text"].values)


def test_understanding_after_adapt_is_the_trained_expert(fuse, plan, stimuli, tiny_vlm):
    fused = fuse(plan).adapt("all")
    with torch.no_grad():
        for parameter in fused.understanding.parameters():
            parameter.mul_(1.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = extract(fused_subject(fused, "understanding"), stimuli)["text"].values
    assert not torch.allclose(features, extract(tiny_vlm, stimuli)["text"].values)
    trained = replace(tiny_vlm, model=fused.understanding)
    assert torch.equal(features, extract(trained, stimuli)["text"].values)


@pytest.mark.parametrize("layout", ["H", "double fusion"])
def test_both_ways_says_what_understanding_alone_does_not_show(fuse, plan, stimuli, tiny_vlm, layout):
    fused = fuse(replace(plan, layout=layout, both_ways=True))
    with pytest.warns(UserWarning, match="the understanding expert by itself, .* not what its bridges bring"):
        subject = fused_subject(fused, "understanding")
    features, expert = extract(subject, stimuli), extract(tiny_vlm, stimuli)
    assert torch.equal(features["text"].values, expert["text"].values)


def test_generation_reads_text_through_the_bridges(fused, stimuli, plan):
    subject = fused_subject(fused, "generation")
    seen = extract(subject, stimuli, timesteps=(0.5,))
    assert set(seen) == {"image", "text"}
    for part in seen.values():
        assert part.values.shape == (4, 5, 12)
        assert part.task == "generation"
    other = extract(subject, other_texts(stimuli), timesteps=(0.5,))
    assert torch.equal(seen["image"].values, other["image"].values)
    assert torch.equal(seen["text"].values[0], other["text"].values[0])  # the first bridge is in the first block
    for layer in range(1, 4):
        assert not torch.equal(seen["text"].values[layer], other["text"].values[layer])


def test_closed_gates_leave_text_features_to_the_noise(fuse, plan, stimuli, tiny_dit):
    subject = fused_subject(fuse(plan), "generation")
    seen = extract(subject, stimuli, timesteps=(0.5,))
    other = extract(subject, other_texts(stimuli), timesteps=(0.5,))
    assert torch.equal(seen["text"].values, other["text"].values)
    expert = extract(tiny_dit, stimuli, timesteps=(0.5,))
    assert torch.equal(seen["image"].values, expert["image"].values)


@pytest.mark.parametrize("stream", ["text", "both"])
def test_the_image_stands_in_for_text_whatever_stream_the_bridges_enter(fuse, plan, stimuli, tiny_dit, stream):
    subject = fused_subject(fuse(replace(plan, stream=stream)), "generation")
    features, expert = (extract(each, stimuli, timesteps=(0.5,)) for each in (subject, tiny_dit))
    assert torch.equal(features["image"].values, expert["image"].values)


@pytest.mark.parametrize("family", ["SD 3.5", "Wan", "Lumina 2"])
def test_a_pipeline_generates_latents_and_holds_tokens_its_own_way(fuse_pipeline, pipeline, stimuli, family):
    """Two streams; images alone; text and image in one sequence."""
    fused, stimuli = fuse_pipeline(family), stimuli[:2]
    subject = fused_subject(fused, "generation")
    features = extract(subject, stimuli, timesteps=(0.5,))
    expert = extract(pipeline(family).expert, stimuli, timesteps=(0.5,))
    torch.testing.assert_close(features["image"].values, expert["image"].values, rtol=1e-4, atol=1e-4)
    other = extract(subject, other_texts(stimuli), timesteps=(0.5,))
    assert torch.equal(features["text"].values, other["text"].values)
    open_gates(fused)
    features, other = (extract(subject, each, timesteps=(0.5,)) for each in (stimuli, other_texts(stimuli)))
    assert torch.equal(features["image"].values, other["image"].values)
    assert not torch.equal(features["text"].values[-1], other["text"].values[-1])


def test_an_early_stop_leaves_nothing_behind(fused, stimuli):
    extract(fused_subject(fused, "generation"), stimuli, timesteps=(0.5,))
    assert torch._C._len_torch_function_stack() == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fused.modules())


def test_no_joint_pass_and_no_third_task(fused, stimuli):
    with pytest.raises(ValueError, match="fused has no joint pass"):
        extract(fused_subject(fused, "generation"), stimuli, timesteps=(0.5,), joint=True)
    with pytest.raises(ValueError, match="unknown task 'chess': expected one of understanding, generation"):
        fused_subject(fused, "chess")
