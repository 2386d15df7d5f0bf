"""Designs whose image tokens open_expert cannot make: curves by AnyModel, or the true reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from bridgework.models.experts.opening import open_expert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.models.tiny_folders import IMAGE, SIDE, VISION, VOCABULARY, picture, tokenizer

NARROW = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
WORDS = NARROW | {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OPT = {k: v for k, v in WORDS.items() if k != "intermediate_size"}
OPT |= {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}
STIMULI = Stimuli([Stimulus(picture(n), text, str(n)) for n, text in enumerate(("a red ring", "the blue cross"))])


def instructblip() -> Any:
    queries = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": VOCABULARY,
        "num_hidden_layers": 2, "encoder_hidden_size": 24, "cross_attention_frequency": 1}  # fmt: skip
    return t.InstructBlipForConditionalGeneration(
        t.InstructBlipConfig(
            vision_config=VISION, text_config=OPT, qformer_config=queries, num_query_tokens=4, image_token_index=IMAGE
        )
    )


def fuyu() -> Any:
    sizes = {"image_size": 32, "patch_size": 8, "image_token_id": IMAGE}
    return t.FuyuForCausalLM(t.FuyuConfig(**WORDS, **sizes, text_config=WORDS | {"model_type": "persimmon"}))


def mllama() -> Any:
    eyes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_global_layers": 1,
        "attention_heads": 4, "image_size": 32, "patch_size": 8, "vision_output_dim": 64, "max_num_tiles": 1,
        "intermediate_layers_indices": [1], "supported_aspect_ratios": [[1, 1]]}  # fmt: skip
    words: dict[str, Any] = WORDS | {"num_key_value_heads": 2, "cross_attention_layers": [1, 3]}
    words["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    return t.MllamaForConditionalGeneration(
        t.MllamaConfig(vision_config=eyes, text_config=words, image_token_index=IMAGE)
    )


def pixels(stimulus: Stimulus) -> torch.Tensor:
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(stimulus.id)))


def inputs(kind: str) -> Callable[..., dict[str, Any]]:
    """What each design is given: four image tokens in front, or Mllama's placeholder."""

    def given(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Any]:
        image, words = "image" in modalities, [20, 21, 22] if "text" in modalities else []
        rows = [[t + int(s.id) for t in words] for s in stimuli]
        seen = torch.stack([pixels(s) * image for s in stimuli])
        found: dict[str, Any] = {}
        if kind == "instructblip":  # the queries read the words as well
            rows = [[*[IMAGE] * 4, 2, *row] for row in rows]
            found = {"pixel_values": seen, "qformer_input_ids": torch.tensor([[3, *row[5:]] for row in rows])}
        elif kind == "fuyu":
            rows = [[*[IMAGE] * 4 * image, 1, *row] for row in rows]
            found = {"image_patches": seen.flatten(1)[:, : 4 * 192].view(-1, 4, 192)} if image else {}
        else:
            rows = [[1, *[IMAGE] * image, *row] for row in rows]
            if image:
                ones = torch.ones(len(stimuli), 1, dtype=torch.long)
                found = {"pixel_values": seen[:, None, None], "aspect_ratio_ids": ones}
                found["aspect_ratio_mask"] = ones[..., None]
                found["cross_attention_mask"] = torch.ones(len(stimuli), len(rows[0]), 1, 1).long()
        ids = torch.tensor(rows)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | found

    return given


DESIGNS = {
    "instructblip": (instructblip, "language_model.model.decoder.layers", "BlipImageProcessorPil", {}),
    "fuyu": (fuyu, "model.language_model.layers", "FuyuImageProcessorPil", {"patch_size": {"height": 8, "width": 8}}),
    "mllama": (mllama, "model.language_model.layers", "MllamaImageProcessorPil", {"max_image_tiles": 1}),
}


@pytest.mark.parametrize("kind", ["instructblip", "fuyu"])
@pytest.mark.parametrize("joint", [False, True])
def test_curves_by_any_model(kind, joint):
    torch.manual_seed(0)
    build, stack, *_ = DESIGNS[kind]
    model = build().eval()
    found = extract(AnyModel(model, inputs(kind), stack), STIMULI, joint=joint)
    blocks = [f"{stack}.{number}" for number in range(4)]
    for modality in ("image", "text"):
        shown = ("image", "text") if joint else (modality,)
        with torch.no_grad(), capture(model, blocks) as taps:
            model(**inputs(kind)(STIMULI, shown))
        own = slice(0, 4) if modality == "image" else slice(-3, None)
        for number, block in enumerate(blocks):
            torch.testing.assert_close(found[modality].layer(str(number)), taps[block][:, own].mean(1))


@pytest.mark.parametrize("joint", [False, True])
def test_a_placeholder_that_is_read_as_a_word_is_no_image(joint):
    torch.manual_seed(0)
    build, stack, *_ = DESIGNS["mllama"]
    subject = AnyModel(build().eval(), inputs("mllama"), stack)
    message = rf"tokens are image \(no token that enters '{stack}' moves with it: that stack reads none, or by cross"
    with pytest.raises(ValueError, match=message):
        extract(subject, STIMULI, joint=joint)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "instructblip",
            "are made from 'qformer_input_ids', which its processor makes of image and words together: pr",
        ),
        (
            "fuyu",
            "are made from 'pixel_values', which its processor makes of image and words together: probe it as Any",
        ),
        (
            "mllama",
            r"no image tokens among the tokens of a language model: its blocks 1, 3 read the image by cross-atte",
        ),
    ],
)
def test_the_true_reason_when_it_is_opened(kind, message, tmp_path: Path):
    torch.manual_seed(0)
    build, _, processor, options = DESIGNS[kind]
    for part in (build(), tokenizer(), getattr(t, processor)(size=SIDE, **options)):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_expert(tmp_path)
