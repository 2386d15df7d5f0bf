"""Any model: from a bare module and a function to its features, with no word about blocks or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, SwinConfig, SwinModel

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel


@pytest.fixture
def stimuli() -> Stimuli:
    rng = np.random.default_rng(0)
    pairs = [(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)), text) for text in ("a", "bcd", "ef")]
    return Stimuli([Stimulus(image, text, text) for image, text in pairs], "letters")


class Odd(nn.Module):
    """The batch is second; a register stands first, then the letters, then four patches."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.patches = nn.Embedding(128, 8), nn.Conv2d(3, 8, 4, 4)
        self.register = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)])

    def forward(self, letters: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
        parts = [self.register.expand(len(letters if letters is not None else pixels), -1, -1)]  # type: ignore[arg-type]
        if letters is not None:
            parts.append(self.letters(letters))
        if pixels is not None:
            parts.append(self.patches(pixels).flatten(2).transpose(1, 2))
        return self.blocks(torch.cat(parts, 1).transpose(0, 1))


def inputs(
    stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if "text" in modalities:
        given["letters"] = torch.tensor([[ord(s.text[0]), ord(s.text[-1])] for s in stimuli])
    if "image" in modalities:
        given["pixels"] = torch.stack([torch.tensor(np.asarray(s.image)).permute(2, 0, 1) / 255 for s in stimuli])
    return given


KINDS = {"letters": "text", "pixels": "image"}


def test_features_of_a_model_that_nobody_described(stimuli):
    torch.manual_seed(0)
    model = Odd().eval()
    features = extract(AnyModel(model, inputs, kinds=KINDS), stimuli)
    assert features["image"].subject == "Odd"
    with torch.no_grad():
        states = model.letters(inputs(stimuli, ("text",), "understanding", None)["letters"])
        for layer in range(4):
            torch.testing.assert_close(features["text"].values[layer], states.mean(1))
            states = model.blocks[layer](states) if layer < 3 else states
        patches = model.patches(inputs(stimuli, ("image",), "understanding", None)["pixels"])
        torch.testing.assert_close(features["image"].values[0], patches.mean((2, 3)))
    sink = extract(AnyModel(model, inputs, kinds=KINDS), stimuli, special=True)["image"].values[0]
    torch.testing.assert_close(sink, (patches.sum((2, 3)) + model.register[0]) / 5)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda s, m, *rest: inputs(s, ("image", "text"), *rest), ValueError, r"shows the text in a pass without it"),
        (lambda *given: inputs(*given).values(), TypeError, r"returns a dict_values: expected a dict of keyword"),
        (lambda *given: {k: v.numpy() for k, v in inputs(*given).items()}, TypeError, r"'pixels' as an array of NumPy"),
    ],
    ids=["both modalities in each pass", "no dict", "arrays"],
)
def test_inputs_that_do_not_as_they_are_asked(stimuli, wrong, error, message):
    with pytest.raises(error, match=message):
        extract(AnyModel(Odd().eval(), wrong, kinds=KINDS), stimuli)


def test_inputs_that_know_the_stimuli_alone(stimuli):
    table = {s.text: inputs([s], ("text",), "", None)["letters"] for s in stimuli}

    def known(given: Sequence[Stimulus], modalities: tuple[str, ...], *rest: Any) -> dict[str, Any]:
        rows = [table[s.text] for s in given]  # in the image's pass too
        return inputs(given, modalities, *rest) | ({"letters": torch.cat(rows)} if "text" in modalities else {})

    model = Odd().eval()
    features = [extract(AnyModel(model, each, kinds=KINDS), stimuli)["image"].values for each in (known, inputs)]
    assert torch.equal(*features)


def test_several_stacks_have_to_be_chosen_from(stimuli):
    torch.manual_seed(0)
    tiny = ZOO["UNet2DConditionModel"][1]()
    with pytest.raises(ValueError, match=r"UNet2DConditionModel has several stacks: say which, as stack=, of 'down_bl"):
        AnyModel(tiny.model, lambda *_: tiny.inputs)
    with pytest.raises(
        ValueError, match=r"has no stack 'blocks': it has 'down_blocks' \(2 blocks\), 'mid_block' \(1 b"
    ):
        AnyModel(tiny.model, lambda *_: tiny.inputs, stack="blocks")


def test_a_unet_from_end_to_end(stimuli):
    torch.manual_seed(0)
    tiny = ZOO["UNet2DConditionModel"][1]()
    stacks = ("down_blocks", "mid_block", "up_blocks")
    subject = AnyModel(tiny.model.eval(), lambda *_: tiny.inputs, stacks, modalities=("image",))
    part = extract(subject, stimuli[:2])["image"]
    paths = ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    with torch.no_grad(), capture(tiny.model, paths) as taps:
        tiny.model(**tiny.inputs)
    for number, path in enumerate(paths, start=1):
        means = taps[path].mean((2, 3))
        torch.testing.assert_close(part.layer(part.layers[number]), means)


def test_blocks_that_merge_tokens(stimuli):
    """Swin: 256 patches, then 64, then 16, each time twice as wide."""
    torch.manual_seed(0)
    config = SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=4)
    model = SwinModel(config).eval()
    pixels = torch.randn(3, 3, 64, 64)
    subject = AnyModel(model, lambda s, *_: {"pixel_values": pixels[: len(s)]}, modalities=("image",))
    part = extract(subject, stimuli)["image"]
    with torch.no_grad():
        native = model(pixels, output_hidden_states=True).hidden_states
    for number, theirs in enumerate(native):
        torch.testing.assert_close(part.layer(part.layers[number]), theirs.mean(1))


def test_a_token_that_comes_later_is_not_pooled_over(stimuli):
    class Late(Odd):
        def forward(self, letters: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
            assert pixels is not None
            states = self.patches(pixels).flatten(2).transpose(1, 2)
            states = self.blocks[0](states)
            return self.blocks[1](torch.cat([self.register.expand(len(states), -1, -1), states], 1))

    torch.manual_seed(0)
    model = Late().eval()
    del model.blocks[2]
    subject = AnyModel(model, inputs, modalities=("image",), kinds=KINDS)
    with pytest.raises(
        ValueError, match=r"layer 'blocks.1' has hidden states of shape \(3, 5, 8\), but the image mask"
    ):
        extract(subject, stimuli)


def test_an_order_that_cannot_be_found_is_said(stimuli, recwarn):
    class Overlapping(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 6, 2, 2)

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="the order of the image tokens of Overlapping cannot be found"):
        extract(AnyModel(Overlapping().eval(), inputs, modalities=("image",), kinds=KINDS), stimuli)
    recwarn.clear()
    extract(AnyModel(Odd().eval(), inputs, modalities=("image",), kinds=KINDS), stimuli)
    assert not recwarn.list


def test_stacks_that_differ_are_refused(stimuli):
    torch.manual_seed(0)
    tiny = ZOO["Lumina2Transformer2DModel"][1]()
    subject = AnyModel(tiny.model.eval(), lambda *_: tiny.inputs, ("noise_refiner", "layers"))
    with pytest.raises(ValueError, match=r"noise_refiner, layers of Lumina2.* hold their tokens differently"):
        extract(subject, stimuli[:2])


def test_a_stack_that_never_runs(stimuli):
    torch.manual_seed(0)
    tiny = ZOO["JanusForConditionalGeneration"][1]()
    subject = AnyModel(tiny.model.eval(), lambda *_: tiny.inputs, "model.vqmodel.decoder.up")
    with pytest.raises(RuntimeError, match=r"'model.vqmodel.decoder.up' of Janus.* never runs with these inputs"):
        extract(subject, stimuli[:2])


def test_what_cannot_be_told_is_asked_for(stimuli):
    class Mixer(Odd):
        def forward(self, letters: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
            states = torch.cat([self.letters(letters), self.patches(pixels).flatten(2).transpose(1, 2)], 1)
            return self.blocks(states + states.mean(1, keepdim=True))

    torch.manual_seed(0)
    subject = AnyModel(Mixer().eval(), lambda s, m, *_: inputs(s, ("image", "text"), *_), kinds=KINDS)
    with pytest.raises(
        ValueError,
        match=r"Mixer does not say which tokens are image \(tokens mix image with other inputs before the first block "
        r"of 'blocks'\): leave 'image' out .* choose the tokens, such as tokens=",
    ):
        extract(subject, stimuli, joint=True)
    tokens = {"text": slice(0, 2), "image": slice(2, None)}
    features = extract(subject, stimuli, joint=True, tokens=tokens)
    with torch.no_grad(), capture(subject.model, ["blocks.2"]) as taps:
        subject.model(**inputs(stimuli, ("image", "text"), "", None))
    torch.testing.assert_close(features["text"].values[-1], taps["blocks.2"][:, :2].mean(1))
    torch.testing.assert_close(features["image"].values[-1], taps["blocks.2"][:, 2:].mean(1))


def test_the_same_subject_goes_on_with_its_store(stimuli, tmp_path):
    torch.manual_seed(0)
    subject = AnyModel(Odd().eval(), inputs, kinds=KINDS)
    first = extract(subject, stimuli, store=tmp_path / "store")["text"].values
    assert torch.equal(extract(subject, stimuli, store=tmp_path / "store")["text"].values, first)


@pytest.mark.parametrize("kind", ["a cache of the model's", "a list of the user's"])
def test_inputs_that_a_pass_changes_are_the_same_for_the_next(kind, stimuli):
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(vocab_size=128, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
                                   num_attention_heads=2, num_key_value_heads=2)).eval()  # fmt: skip
    with torch.no_grad():
        read: Any = model(torch.tensor([[7, 8, 9]]).expand(3, -1), use_cache=True).past_key_values
    if kind == "a list of the user's":
        read = Growing(read)

    def given(shown: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
        return {"input_ids": inputs(shown, ("text",), "", None)["letters"], "past_key_values": read}

    features = extract(AnyModel(model, given, modalities=("text",)), stimuli)["text"].values
    assert read.get_seq_length() == 3
    with torch.no_grad():
        states = model(**given(stimuli), output_hidden_states=True).hidden_states
    for layer in (0, 1):
        torch.testing.assert_close(features[layer], states[layer].mean(1))


class Growing:
    """A cache that is no module and no class of transformers."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        if name == "cache":
            raise AttributeError(name)
        return getattr(self.cache, name)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda stimuli: {"pixel_values": torch.zeros(len(stimuli), 3, 4, 4)}, ("image",)),
        (lambda stimuli, modalities: {"input_ids": torch.ones(1, 2).long()}, ("text",)),
        (lambda stimuli, modalities, task: {"input_features": torch.zeros(1, 3, 4)}, ("audio",)),
        (
            lambda stimuli, modalities, task, timestep: {
                "input_ids": torch.ones(1, 2).long(),
                "pixel_values": torch.zeros(1, 3, 4, 4),
            },
            ("image", "text"),
        ),
        (lambda *_: {"x": torch.zeros(1, 3, 4, 4)}, ("image", "text")),  # its name does not tell
        (lambda stimuli: {}[stimuli[0].id], ("image", "text")),  # it knows its own stimuli alone
    ],
)
def test_modalities_follow_from_the_names_of_inputs_and_it_may_take_fewer_arguments(function, found):
    assert AnyModel(Odd(), function).modalities == found
    assert AnyModel(Odd(), function, modalities=("text",)).modalities == ("text",)
