"""A caption's own tokens: what stays as it is when `inputs` is asked for other captions is template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel

CHAT = ["<pad>", "<s>", "</s>", "<unk>", "<|start|>", "<|end|>", "<image>"]
TWO_TURNS = (
    "<s><|start|>user\nwhat is it ?<|end|>\n<|start|>assistant\nyes .<|end|>\n"
    "<|start|>user\n{}<|end|>\n<|start|>assistant\n"
)
TEMPLATES = {
    "bare": "{}",
    "two turns": TWO_TURNS,
    "spaces": "<s>user: {} assistant:",
    "quoted": '<s>"{}".</s>',
    "twice": "<s>user: {} assistant: the {} . user: yes",
    "words of captions": "<s>a red {} ball . a",
    "in front": "describe the {}",
    "behind": "{} ball .",
}
CAPTIONS = (
    "red ball", "a red ball", "the blue circle is left of a green cross .", "ball", "red", "a", "a a a", "red ball .",
    "red . ball", "yes . no .", "ring ring",
)  # fmt: skip
CORPUS = ["user: describe the picture in a few words . assistant: a red ball on the table . yes . no .",
    "the blue circle is left of a green cross . what is it ? \" ring"] * 50  # fmt: skip


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of each kind that models have, trained on a few words."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "bytes": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainers.BpeTrainer),
        "pieces": (models.WordPiece(unk_token="<unk>"), pre_tokenizers.BertPreTokenizer(), trainers.WordPieceTrainer),
        "unigrams": (models.Unigram(), pre_tokenizers.Metaspace(), trainers.UnigramTrainer),
        "words": (models.WordLevel(unk_token="<unk>"), pre_tokenizers.BertPreTokenizer(), trainers.WordLevelTrainer),
    }
    model, cut, trainer = kinds[kind]
    plain = Tokenizer(model)
    plain.pre_tokenizer = cut
    options: dict[str, Any] = {"special_tokens": CHAT, "show_progress": False}
    options |= {"initial_alphabet": letters, "vocab_size": 400} if kind == "bytes" else {}
    options |= {"unk_token": "<unk>", "vocab_size": 120} if kind == "unigrams" else {}
    if kind == "pieces":
        plain.normalizer = normalizers.Lowercase()
    plain.train_from_iterator(CORPUS, trainer(**options))
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


class Language(nn.Module):
    """Words, and patches in the places of the token <image>."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.patches = nn.Embedding(600, 8), nn.Linear(3, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Tanh()) for _ in range(2))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, pixel_values: Tensor | None = None
    ) -> Tensor:
        states = self.words(input_ids)
        if pixel_values is not None:
            states[input_ids == CHAT.index("<image>")] = self.patches(pixel_values).flatten(0, 1)
        for layer in self.layers:
            states = layer(states)
        return states


def stimuli_of(*captions: str) -> Stimuli:
    return Stimuli([Stimulus(Image.new("RGB", (2, 2)), text, f"{n}") for n, text in enumerate(captions)], "captions")


def templated(kind: str, template: str, side: str = "right", mask: bool = True, **options: Any) -> Callable[..., Any]:
    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        given = tokenizer(kind)
        given.padding_side = side
        texts = [template.replace("{}", s.text) for s in stimuli]
        found = given(texts, return_tensors="pt", **({"padding": True} | options))
        return {name: found[name] for name in ("input_ids", "attention_mask")[: 1 + mask]}

    return inputs


def own_text(kind: str, template: str, caption: str) -> list[int]:
    """The ids of the tokens that hold a letter of the caption, by their places in the text."""
    parts, spans, place = template.split("{}"), [], 0
    for part in parts[:-1]:
        spans.append((place + len(part), place + len(part) + len(caption)))
        place = spans[-1][1]
    text = template.replace("{}", caption)
    found = tokenizer(kind)(text, return_offsets_mapping=True)
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [i for i, (a, b) in pairs if any(text[max(a, s) : min(b, e)].strip() for s, e in spans)]


def shown_ids(subject: AnyModel, stimuli: Sequence[Stimulus]) -> list[list[int]]:
    ids = subject.inputs(stimuli, ("text",), "understanding", None)["input_ids"]
    tokens = subject.show(stimuli, ("text",), "understanding", None).tokens["text"]
    if tokens is None:
        return ids.tolist()
    if tokens.dtype == torch.bool:
        return [row[mask].tolist() for row, mask in zip(ids, tokens, strict=True)]
    return [ids.flatten()[row[row >= 0]].tolist() for row in tokens]


@pytest.mark.parametrize(("side", "mask"), [("right", True), ("left", False)])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", ["bytes", "pieces", "unigrams", "words"])
def test_the_captions_own_tokens(kind, template, side, mask):
    subject = AnyModel(Language().eval(), templated(kind, TEMPLATES[template], side, mask), modalities=("text",))
    stimuli = list(stimuli_of(*CAPTIONS))
    blank = set(tokenizer(kind).convert_tokens_to_ids(["Ġ", "▁"]))  # a space alone may be the template's or the word's
    words = [own_text(kind, TEMPLATES[template], s.text) for s in stimuli]
    shown = shown_ids(subject, stimuli) + [shown_ids(subject, [s])[0] for s in stimuli[:3]]  # alone as in a batch
    found, expected = ([[i for i in row if i not in blank] for row in rows] for rows in (shown, words + words[:3]))
    assert found == expected


def test_a_two_turn_chat_pools_three_words_and_not_twenty():
    """Of 33 tokens three are the caption's; a template's other words and marks are in no mean, special or not."""
    stimuli = stimuli_of("a red ball", "the blue cross", "a green ring")
    model = Language().eval()
    subject = AnyModel(model, templated("words", TWO_TURNS), modalities=("text",))
    own = [own_text("words", TWO_TURNS, s.text) for s in stimuli]
    assert [len(row) for row in own] == [3, 3, 3]
    means = torch.stack([model.words(torch.tensor(row)).mean(0) for row in own]).detach()
    for special in (False, True):
        with_special = {"special": True} if special and "special" in _kinds(subject, stimuli) else {}
        torch.testing.assert_close(extract(subject, stimuli, **with_special)["text"].values[0], means)


def _kinds(subject: AnyModel, stimuli: Stimuli) -> list[str]:
    return list(subject.show(list(stimuli), ("text",), "understanding", None).special)


def test_words_between_pictures():
    """A picture within the chat: its placeholders are image, what stands around it is template."""
    model = Language().eval()
    model.config = {"image_token_id": CHAT.index("<image>")}
    chat = templated("words", "<s>user: <image><image> look at {} . <|end|>")

    def inputs(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Tensor]:
        shown = [s._replace(text=s.text if "text" in modalities else "") for s in stimuli]
        return {
            **chat(shown),
            "pixel_values": torch.rand(len(stimuli), 2, 3, generator=torch.Generator().manual_seed(0)),
        }

    stimuli = list(stimuli_of("a red ball", "ring"))
    shown = AnyModel(model, inputs).show(stimuli, ("image", "text"), "understanding", None)
    ids = inputs(stimuli, ("image", "text"))["input_ids"]
    for row, mask, image, stimulus in zip(ids, shown.tokens["text"], shown.tokens["image"], stimuli, strict=True):
        assert row[mask].tolist() == own_text("words", "<s>user: <image><image> look at {} . <|end|>", stimulus.text)
        assert row[image].tolist() == [CHAT.index("<image>")] * 2


def test_one_caption_for_all_and_captions_that_are_looked_up():
    stimuli = list(stimuli_of("a red ball", "a red ball"))
    subject = AnyModel(Language().eval(), templated("bytes", TWO_TURNS), modalities=("text",))
    assert shown_ids(subject, stimuli) == [own_text("bytes", TWO_TURNS, "a red ball")] * 2
    known = {word: number for number, word in enumerate(["a", "red", "ball", "ring", "see"], 10)}

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        rows = [[known["see"], *(known[word] for word in s.text.split()), known["see"]] for s in stimuli]
        longest = max(map(len, rows))
        return {"input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows])}

    subject = AnyModel(Language().eval(), inputs, modalities=("text",))
    stimuli = list(stimuli_of("a red ball", "ring", "ring ring", "ball ball red"))
    assert shown_ids(subject, stimuli) == [[known[word] for word in s.text.split()] for s in stimuli]


def test_inputs_that_do_not_tell_are_said_once(recwarn):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    subject = AnyModel(Language().eval(), lambda stimuli, *_: {"input_ids": ids[: len(stimuli)]}, modalities=("text",))
    assert extract(subject, stimuli_of("a", "b", "c", "d"), batch_size=2)["text"].values.shape == (3, 4, 8)
    (warning,) = [w for w in recwarn.list if "captions' own" in str(w.message)]
    assert "which text tokens of Language are the captions' own cannot be told" in str(warning.message)


def test_inputs_that_draw_are_refused():
    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.randint(4, 500, (len(stimuli), 12))}

    with pytest.raises(ValueError, match="inputs of Language gives another 'input_ids' when it is asked again"):
        extract(AnyModel(Language().eval(), inputs, modalities=("text",)), stimuli_of("a", "b"))


@pytest.mark.parametrize("padding", [True, "max_length"])
@pytest.mark.parametrize("mask", [True, False])
def test_captions_that_are_cut(padding, mask):
    """Twelve tokens hold <s>, eleven words and no more; a caption of eleven is whole."""
    words = "the blue circle is left of a green cross yes no"
    options = {"padding": padding, "truncation": True, "max_length": 12}
    subject = AnyModel(Language().eval(), templated("words", "<s>{}", mask=mask, **options), modalities=("text",))
    stimuli = list(stimuli_of("ring", words, f"{words} ring", "a red ball", f"{words} {words}"))
    shown = subject.show(stimuli, ("text",), "understanding", None)
    assert shown.cut == (2, 4)
    assert [len(row) for row in shown_ids(subject, stimuli)] == [1, 11, 11, 3, 11]


def test_text_that_a_causal_encoder_has_read():
    """States behind the caption have read it: they differ, and are told by the states of a longer caption."""

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        given = templated("words", "describe the {} on it")(stimuli)
        states = torch.nn.functional.one_hot(given["input_ids"], 600).float()[..., :64].cumsum(1)
        mask = given["attention_mask"]
        return {"encoder_hidden_states": states * mask[..., None], "encoder_attention_mask": mask}

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Sequential(nn.Linear(64, 64)), nn.Tanh()) for _ in range(2))

        def forward(self, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> Tensor:
            for layer in self.layers:
                encoder_hidden_states = layer(encoder_hidden_states)
            return encoder_hidden_states

    shown = AnyModel(Reader().eval(), inputs, modalities=("text",)).show(
        list(stimuli_of("a red ball", "ring")), ("text",), "understanding", None
    )
    words = shown.tokens["text"]
    assert words is not None and [mask.nonzero()[:, 0].tolist() for mask in words] == [[2, 3, 4], [2]]
