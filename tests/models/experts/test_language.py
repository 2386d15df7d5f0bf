"""Language models and text encoders: which tokens are words, and how the model is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image

from bridgework.models.experts.language import TextExpert
from bridgework.models.experts.opening import open_expert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.tests.models.tiny_folders import BERT, TEXT, tokenizer, write

MODERN = t.ModernBertDecoderConfig(
    vocab_size=BERT["vocab_size"], hidden_size=16, intermediate_size=24, num_hidden_layers=22, num_attention_heads=2,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
)  # fmt: skip


def blt() -> Any:
    part = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    part |= {"vocab_size": 300, "max_position_embeddings": 128}
    wide = part | {"hidden_size_global": 16}
    return t.BltConfig(
        vocab_size=300, patch_in_forward=True, encoder_config=wide, decoder_config=wide, global_config=part,
        patcher_config=part, encoder_hash_byte_group_vocab=50,
    )  # fmt: skip


def texts(*rows: str) -> list[Stimulus]:
    return [Stimulus(Image.new("RGB", (2, 2)), row, str(i)) for i, row in enumerate(rows)]


def shown(expert: TextExpert, *rows: str) -> tuple[list[list[bool]], list[list[bool]]]:
    given = expert.show(texts(*rows), ("text",), "understanding", None)
    words = given.tokens["text"]
    assert words is not None
    return words.tolist(), given.special["text"].tolist()


def test_the_sink_is_special_and_padding_is_neither(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    words, special = shown(open_expert(tmp_path), "a red ring", "ring")
    assert words == [[False, True, True, True], [False, True, False, False]]
    assert special == [[True, False, False, False], [True, False, False, False]]


# A base model, an encoder with a decoder beside it, one with a decoder that must not be opened with it.
KINDS = {
    "LlamaModel": (lambda: t.LlamaModel(t.LlamaConfig(**TEXT)), True),
    "GPT2Model": (lambda: t.GPT2Model(t.GPT2Config(vocab_size=256, n_embd=32, n_layer=3, n_head=4)), True),
    "BertLMHeadModel": (lambda: t.BertLMHeadModel(t.BertConfig(**BERT, is_decoder=True)), True),
    "BertForMaskedLM": (lambda: t.BertForMaskedLM(t.BertConfig(**BERT)), False),
    "DistilBertForMaskedLM": (
        lambda: t.DistilBertForMaskedLM(t.DistilBertConfig(vocab_size=256, dim=32, n_layers=3, n_heads=4)),
        False,
    ),
    "RobertaForMaskedLM": (lambda: t.RobertaForMaskedLM(t.RobertaConfig(**BERT)), False),
    "ModernBertDecoderForCausalLM": (lambda: t.ModernBertDecoderForCausalLM(MODERN), True),
}


@pytest.mark.parametrize("name", KINDS)
def test_causal_models_are_told_from_encoders(name, tmp_path):
    build, causal = KINDS[name]
    build().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    expert = open_expert(tmp_path)
    assert isinstance(expert, TextExpert)
    assert expert.causal == causal
    words, special = shown(expert, "a red ring")
    assert words == [[False] * causal + [True] * 3]
    assert special == [[True] * causal + [False] * 3]


@torch.no_grad()
def test_of_an_encoder_decoder_the_encoder_runs(tmp_path):
    write("BartModel", tmp_path)
    expert, whole = open_expert(tmp_path), t.BartModel.from_pretrained(tmp_path).eval()
    ids = torch.tensor([expert.tokenizer("a red ring").input_ids])
    given = expert.show(texts("a red ring"), ("text",), "understanding", None)
    native = whole(input_ids=ids, decoder_input_ids=ids).encoder_last_hidden_state
    torch.testing.assert_close(given.run().last_hidden_state, native, rtol=0, atol=1e-6)
    assert len(expert.blocks) == 3


def test_models_run_without_a_cache(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    assert open_expert(tmp_path).show(texts("a ring"), ("text",), "understanding", None).run().past_key_values is None


def test_texts_are_cut_at_the_longest_input(tmp_path):
    write("GPT2LMHeadModel", tmp_path)
    expert = open_expert(tmp_path)
    words, special = shown(expert, "a " * 100)
    assert (sum(words[0]), sum(special[0])) == (63, 1)
    given = expert.show(texts("a " * 100), ("text",), "understanding", None)
    with torch.no_grad(), capture(expert.model, expert.blocks[-1:]) as taps:
        given.run()
    assert taps[expert.blocks[-1]].shape == (1, 64, 32)


def test_a_tokenizer_that_pads_in_front(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    left: Any = tokenizer()
    left.padding_side = "left"
    left.save_pretrained(Path(tmp_path))
    assert shown(open_expert(tmp_path), "a red ring", "ring")[0][1] == [False, True, False, False]


def small(**settings: Any) -> dict[str, Any]:
    return {k: v for k, v in BERT.items() if k != "initializer_range"} | settings


XLNET = {"vocab_size": 256, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, "pad_token_id": 0}


@pytest.mark.parametrize("auto", [t.XLNetModel, t.XLNetLMHeadModel])
@pytest.mark.parametrize("rows", [("a red ring", "ring"), ("a red ring", "ring", "cross"), ("a red",)])
def test_states_with_the_batch_second(auto, rows, tmp_path):
    """Read as by hand, also where texts are as many as tokens; -1 positions in the config are no limit."""
    auto(t.XLNetConfig(**XLNET)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    expert = open_expert(tmp_path)
    assert expert.batch_second
    assert expert.model.config.max_position_embeddings == -1
    given = texts(*rows)
    got = extract(expert, Stimuli(given), device="cpu")["text"]
    for row, stimulus in enumerate(given):
        ids = torch.tensor([[1] * expert.causal + expert.tokenizer(stimulus.text).input_ids])
        with torch.no_grad():
            native = expert.model(input_ids=ids, output_hidden_states=True).hidden_states
        alone = torch.stack([states[0, expert.causal :].mean(0) for states in native])
        torch.testing.assert_close(got.values[:, row], alone, rtol=0, atol=1e-5)
    shown = expert.show(given, ("text",), "understanding", None)
    assert shown.special["text"].shape == (len(rows), expert.causal)


LED = {"vocab_size": 256, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "attention_window": 4}  # fmt: skip
FUNNEL = {"vocab_size": 256, "d_model": 32, "block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 48}
REFUSED = {
    "LongformerModel": (
        lambda: t.LongformerModel(t.LongformerConfig(**small(attention_window=4))),
        r"block 'encoder.layer.0' .* holds states \(2, 4, 32\) for two texts of three tokens: it pads or merges tokens",
    ),
    "LEDModel": (lambda: t.LEDModel(t.LEDConfig(**LED)), r"block 'layers.0' .* holds states \(2, 4, 32\)"),
    "FunnelModel": (lambda: t.FunnelModel(t.FunnelConfig(**FUNNEL)), r"'encoder.blocks.1.0' .* states \(2, 2, 32\)"),
    "AlbertModel": (
        lambda: t.AlbertModel(t.AlbertConfig(**small(embedding_size=16))),
        r"cannot be read on a text of three tokens: layer 'encoder.albert_layer_groups.0' ran twice",
    ),
    "BltForCausalLM": (lambda: t.BltForCausalLM(blt()), "cannot be read on a text of three tokens: .*BltConfig"),
    "CanineModel": (lambda: t.CanineModel(t.CanineConfig(**small())), "cannot be read on a text of three tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_whose_tokens_are_not_those_of_the_text_are_refused(name, tmp_path):
    build, message = REFUSED[name]
    build().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        open_expert(tmp_path)
    assert "\n" not in str(error.value)
    assert "Wrap such a model in your own Subject" in str(error.value)


def test_a_text_of_which_no_token_is_left(tmp_path):
    write("Qwen3_5ForConditionalGeneration", tmp_path)  # its tokenizer knows letters alone
    with pytest.raises(ValueError, match=r"makes no token of the text '123': give it another"):
        open_expert(tmp_path).show(texts("123"), ("text",), "understanding", None)


CHAT = (
    "{% for m in messages %}<s>the {{ m.role }} and {{ m.content }} a ring</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


def test_a_chat_template_is_no_text(tmp_path):
    """The words of the message are pooled, wherever the template stands; raw texts stay the default."""
    write("LlamaForCausalLM", tmp_path)
    tokenizer(chat_template=CHAT).save_pretrained(tmp_path)
    expert, rows = open_expert(tmp_path, chat=True), ["a red ring", "ring", "the"]
    found = expert.show(texts(*rows), ("text",), "understanding", None)
    words, special = found.tokens["text"], found.special["text"]
    assert words is not None
    chats = [f"<s>the user and {row} a ring</s><s>" for row in rows]
    shown = [expert.tokenizer(chat, add_special_tokens=False).input_ids for chat in chats]
    with torch.no_grad(), capture(expert.model, ["embeddings", expert.blocks[0]]) as taps:
        found.run()
    table = expert.model.get_input_embeddings().weight
    for place, (row, ids) in enumerate(zip(rows, shown, strict=True)):
        assert torch.equal(taps["embeddings"][place, : len(ids)], table[torch.tensor(ids)])
        own = expert.tokenizer(row, add_special_tokens=False).input_ids
        assert [ids[at] for at in words[place].nonzero()[:, 0].tolist()] == own
    assert special.nonzero().tolist() == [[0, 0], [1, 0], [2, 0]]
    raw, chat = (extract(e, Stimuli(texts(*rows), "rows"))["text"].values for e in (open_expert(tmp_path), expert))
    assert not torch.allclose(raw[-1], chat[-1])


def test_a_chat_that_is_not_there_is_refused(tmp_path):
    write("LlamaForCausalLM", tmp_path / "llama")
    with pytest.raises(ValueError, match="llama has no chat template: leave chat out"):
        open_expert(tmp_path / "llama", chat=True)
    with pytest.raises(ValueError, match=r"chat is asked for, but expert 'scenes-vlm' is a vision-language model"):
        open_expert("scenes-vlm", chat=True)
