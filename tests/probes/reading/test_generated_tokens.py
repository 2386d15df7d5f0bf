"""Generated tokens: the states of what the model itself wrote, as while it decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessor,
    T5Config,
    T5ForConditionalGeneration,
)

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.hooks.capturing import EMBEDDINGS, capture
from bridgework.probes.stimuli.stimulus_set import Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.probes.toys import letters

STIMULI = letters("ab", "cd", "efg", "hijkl", "m")
END, PAD = 7, 0
TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "bos_token_id": 1, "eos_token_id": END, "pad_token_id": PAD, "initializer_range": 0.6,
}  # fmt: skip


def padded(side: str) -> Any:
    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        rows = [torch.tensor([8 + ord(letter) % 30 for letter in s.text]) for s in stimuli]
        longest = max(map(len, rows))
        ids, mask = torch.full((len(rows), longest), PAD), torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), None) if side == "left" else slice(len(row))
            ids[number, place], mask[number, place] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    return inputs


def decoded(model: Any, blocks: Sequence[str], given: dict[str, Tensor], tokens: int, **settings: Any) -> Tensor:
    """Decode one prompt step by step with hooks: the mean of the written tokens' states, of each layer."""
    states: dict[str, list[Tensor]] = {}

    def keep(path: str, stream: str | None, state: Tensor) -> None:
        states.setdefault(path, []).append(state[0])

    # One token more is asked for, because a token has states when it is read again. What ends the text is none.
    settings = {"do_sample": False, "max_new_tokens": tokens + 1} | settings
    with torch.no_grad(), capture(model, [EMBEDDINGS, *blocks], keep=keep, stop=False, calls="all"):
        sequence = model.generate(**given, **settings)[0]
    start = given["input_ids"].shape[1]
    written = sequence[start : start + tokens].tolist()
    count = written.index(END) if END in written else len(written)
    return torch.stack([torch.cat(steps)[start : start + count].mean(0) for steps in states.values()])


def text_of(model: Any, side: str = "left", **options: Any) -> Features:
    return extract(AnyModel(model, padded(side), modalities=("text",)), STIMULI, **options)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_they_are_those_of_decoding(family, side):
    """Prompts of unlike length, and texts that end early: GPT-2 would shift its positions behind padding."""
    torch.manual_seed(4)
    small = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "eos_token_id": END, "pad_token_id": PAD}
    model: Any = LlamaForCausalLM(LlamaConfig(**TEXT)) if family == "llama" else None
    model = (model or GPT2LMHeadModel(GPT2Config(**small, initializer_range=0.5))).eval()
    subject = AnyModel(model, padded(side), modalities=("text",))
    features = extract(subject, STIMULI, generate=7, batch_size=3)["text"]
    assert features.pooling == "mean + generated"
    counts = set()
    for number, stimulus in enumerate(STIMULI):
        given = padded("right")([stimulus])
        truth = decoded(model, subject.blocks, given, 7)
        torch.testing.assert_close(features.values[:, number], truth, rtol=1e-4, atol=1e-4)
        whole = model.generate(**given, do_sample=False, max_new_tokens=7)[0]
        counts.add(int((whole[given["input_ids"].shape[1] :] != END).sum()))
    all_tokens = extract(subject, STIMULI, generate=7, pooling="none")["text"]
    assert set(all_tokens.counts[0].tolist()) == counts


def test_some_texts_end_early():
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    texts = [
        model.generate(**padded("right")([s]), do_sample=False, max_new_tokens=7, eos_token_id=99)[0] for s in STIMULI
    ]
    written = [text[len(s.text) :].tolist() for text, s in zip(texts, STIMULI, strict=True)]
    begins = {tokens[0] for tokens in written}
    end = next(token for tokens in written for token in tokens[1:] if token not in begins)  # in some, at no start
    cut = text_of(model, generate={"max_new_tokens": 7, "eos_token_id": end}, pooling="none")["text"]
    assert cut.counts[0].tolist() == [tokens.index(end) if end in tokens else 7 for tokens in written]
    assert len(set(cut.counts[0].tolist())) > 1
    whole = text_of(model, generate={"max_new_tokens": 7, "eos_token_id": 99}, pooling="none")["text"]
    for sample, count in enumerate(cut.counts[0].tolist()):
        torch.testing.assert_close(cut.values[:, sample, :count], whole.values[:, sample, :count], rtol=1e-4, atol=1e-4)


def test_under_guidance_they_are_the_conditional_half():
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    guided = {"max_new_tokens": 5, "guidance_scale": 3.0}
    ours = text_of(model, generate=guided)["text"]
    for number, stimulus in enumerate(STIMULI):
        given = padded("right")([stimulus])
        sequence = model.generate(**given, do_sample=False, **guided)
        own = slice(given["input_ids"].shape[1], None if END not in sequence[0] else sequence[0].tolist().index(END))
        with torch.no_grad():
            states = model(sequence, output_hidden_states=True).hidden_states
        torch.testing.assert_close(ours.layer("0")[number], states[1][0, own].mean(0), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours.values, text_of(model, generate=5)["text"].values)


def test_what_a_vision_language_model_says_of_a_picture():
    torch.manual_seed(4)
    vision = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = LlavaConfig(
        vision_config={**vision, "model_type": "siglip_vision_model", "intermediate_size": 24},
        text_config={**TEXT, "model_type": "llama"}, image_token_index=35, image_seq_length=4,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()

    def inputs(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Tensor]:
        pixels = torch.stack([torch.full((3, 16, 16), ord(s.text[0]) / 50 - 2) for s in stimuli])
        return {"input_ids": torch.tensor([[8, 35, 35, 35, 35, 9]] * len(stimuli)), "pixel_values": pixels}

    subject = AnyModel(model, inputs, stack="model.language_model.layers", modalities=("image",))
    ours = extract(subject, STIMULI, generate=4, batch_size=2)["image"]
    for number, stimulus in enumerate(STIMULI):
        truth = decoded(model, subject.blocks, inputs([stimulus], ("image",)), 4)
        torch.testing.assert_close(ours.values[:, number], truth, rtol=1e-4, atol=1e-4)


def test_a_decoder_beside_an_encoder():
    torch.manual_seed(4)
    small = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=PAD, eos_token_id=END)).eval()
    subject = AnyModel(model, padded("right"), stack="encoder.block", modalities=("text",))
    with pytest.raises(ValueError, match=r"writes with its decoder: probe that"):
        extract(subject, STIMULI, generate=4)


class Only(LogitsProcessor):
    def __init__(self, words: int) -> None:
        self.words = words

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores.where(torch.arange(scores.shape[1]) < self.words, -torch.inf)


def test_a_store_knows_what_the_model_writes_by(tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    subject = AnyModel(model, padded("left"), modalities=("text",))

    def write(words: int = 40) -> Tensor:
        keywords = {"max_new_tokens": 4, "min_new_tokens": 2, "logits_processor": [Only(words)]}
        return extract(subject, STIMULI, generate=keywords, store=tmp_path, check=False)["text"].values.clone()

    before = write()
    model.generation_config.num_beams = 3  # decoding is greedy all the same
    model.generation_config.max_new_tokens = 9
    assert torch.equal(write(), before)
    with pytest.raises(ValueError, match=r"made differently \(generate.logits_processor"):
        write(20)
    model.generation_config.suppress_tokens = list(range(8, 30))
    with pytest.raises(ValueError, match=r"made differently \(generation_config"):
        write()


def test_what_cannot_be_read_is_refused():
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    for generate, message in (
        ({"do_sample": True}, "drawn at random"),
        (0, "generate is 0: expected a whole number of at least 1"),
        ({"max_new_tokens": 3, "eos_token_id": list(range(40))}, r"writes nothing for stimulus 'id m'.*min_new_tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            text_of(model, generate=generate)
    with pytest.raises(ValueError, match=r"LlamaModel does not generate text: open the model with its lang"):
        text_of(model.model, generate=3)
    with pytest.raises(ValueError, match="no joint pass and no timesteps"):
        extract(AnyModel(model, padded("left"), modalities=("image", "text")), STIMULI, generate=3, joint=True)
