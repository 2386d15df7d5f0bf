"""Vision transformers and dual encoders: which tokens are patches, and which models have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from bridgework.models.experts.opening import open_expert
from bridgework.models.experts.vision import DualExpert, VisionExpert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.tests.models.tiny_folders import BERT, SIDE, VISION, picture, squares, tokenizer, write


def save(folder: Path, model: Any, *parts: Any) -> Any:
    torch.manual_seed(0)
    for part in (model, *parts):
        part.save_pretrained(folder)
    return open_expert(folder)


@pytest.fixture
def stimuli() -> Stimuli:
    return Stimuli([Stimulus(picture(i), text, str(i)) for i, text in enumerate(("a red circle", "a ring"))])


def masks(subject: Any, stimuli: Stimuli, modality: str = "image") -> tuple[torch.Tensor, torch.Tensor]:
    shown = subject.show(list(stimuli), (modality,), "understanding", None)
    return shown.tokens[modality], shown.special[modality]


# Patches stand between class or register tokens and detection tokens.
FRAMED = {
    "Dinov2WithRegisters": ({"num_register_tokens": 3}, 4, 0),
    "Deit": ({}, 2, 0),
    "Yolos": ({"num_detection_tokens": 5, "image_size": [32, 32]}, 1, 5),
    "IJepa": ({}, 0, 0),
}


@pytest.mark.parametrize("name", FRAMED)
def test_patches_are_found_wherever_they_stand(name, tmp_path, stimuli):
    options, before, behind = FRAMED[name]
    name = {"Deit": "DeiT"}.get(name, name)
    config = getattr(t, f"{name}Config")(**{**VISION, **options})
    expert = save(tmp_path, getattr(t, f"{name}Model")(config), squares("ViTImageProcessorPil")())
    patches, special = masks(expert, stimuli)
    assert torch.equal(patches[0], torch.tensor([False] * before + [True] * 16 + [False] * behind))
    assert torch.equal(special, ~patches)


def test_patches_go_with_the_size_of_the_pixels(tmp_path, stimuli):
    expert = save(tmp_path, t.Dinov2Model(t.Dinov2Config(**VISION)), squares("ViTImageProcessorPil")())
    assert masks(expert, stimuli)[0].sum(1).tolist() == [16, 16]
    expert.processor.size = {"height": 48, "width": 32}
    assert masks(expert, stimuli)[0].sum(1).tolist() == [24, 24]


def swin() -> Any:
    config = t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)
    return t.SwinModel(config)


REFUSED = {
    "merges patches": (
        swin,
        r"hold states \(1, .*\) to \(1, .*\): expected \(batch, token, dim\) with the same patches",
    ),
    "draws at random": (lambda: t.ViTMAEModel(t.ViTMAEConfig(**VISION)), r"something else each time it sees an image"),
    "sees videos": (lambda: t.VideoMAEModel(t.VideoMAEConfig(**VISION)), r"does not run on what its image processor"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_models_without_lasting_patches_are_refused(why, tmp_path, stimuli):
    build, message = REFUSED[why]
    expert = save(tmp_path, build(), squares("ViTImageProcessorPil")())
    with pytest.raises(ValueError, match=message) as error:
        masks(expert, stimuli)
    assert "\n" not in str(error.value)
    assert "in your own Subject" in str(error.value)


# ---- dual encoders


def test_a_dual_encoder_is_two_subjects(tmp_path, stimuli):
    write("CLIPModel", tmp_path)
    expert = open_expert(tmp_path)
    assert isinstance(expert, DualExpert)
    assert isinstance(expert.vision, VisionExpert)
    assert len(expert.vision.blocks) != len(expert.text.blocks)
    with pytest.raises(AttributeError, match=r"two subjects and has no 'tasks' itself: give its .vision or its .text"):
        extract(expert, stimuli)


@torch.no_grad()
def test_siglip_reads_padding_as_it_was_trained_to(tmp_path, stimuli):
    """Its texts are all of one length, the padding unmasked: a mask would change every state."""
    write("SiglipModel", tmp_path)
    text = open_expert(tmp_path).text
    shown = text.show(list(stimuli), ("text",), "understanding", None)
    ids = text.tokenizer([s.text for s in stimuli], padding="max_length", max_length=16, return_tensors="pt").input_ids
    assert torch.equal(shown.run().last_hidden_state, text.model(input_ids=ids).last_hidden_state)
    words, special = masks(text, stimuli, "text")
    assert words.sum(1).tolist() == [3, 2]
    assert special.sum(1).tolist() == [1, 1]  # the end, not the padding


def test_siglip2_leaves_padded_patches_out(tmp_path, stimuli):
    """Its processor keeps each image's shape and pads to one number of patches."""
    eyes = {k: v for k, v in VISION.items() if k != "image_size"} | {"num_patches": 16}
    words = {**BERT, "hidden_size": 24, "max_position_embeddings": 16, "projection_size": 24}
    processor = t.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    config = t.Siglip2Config(vision_config=eyes, text_config=words)
    expert = save(tmp_path, t.Siglip2Model(config), tokenizer(ends=True), processor)
    shapes = Stimuli([stimuli[0], stimuli[1]._replace(image=picture(1, 96, 32))])
    patches, special = masks(expert.vision, shapes)
    given = processor([s.image for s in shapes], return_tensors="pt")
    assert patches.sum(1).tolist() == given["pixel_attention_mask"].sum(1).tolist()
    assert patches.sum(1)[1] < 16
    assert not special.any()


@torch.no_grad()
def test_a_processor_for_torchvision_alone(tmp_path, stimuli):
    """DINOv3's: resize, rescale and normalise as its file says."""
    write("DINOv3ViTModel", tmp_path)
    pixels = open_expert(tmp_path).processor([stimuli[0].image], return_tensors="pt").pixel_values[0]
    assert stimuli[0].image.size == (SIDE["width"], SIDE["height"])
    by_hand = (
        torch.frombuffer(bytearray(stimuli[0].image.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
        / 255
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(pixels, (by_hand - mean) / std, rtol=0, atol=1e-5)
