"""Grids: rows, columns and frames are those that inputs say or that changes of pixels show, and never a square root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from bridgework.benchmarks.support.tiny_built import IMG
from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.patch_grids import regrid
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.probes.subjects.test_sample_rows import LM, TOWER, joined, numbered, of, qwen

EYES = "model.vision_tower.encoder.layers"


def grid_features(model: nn.Module, stack: str, given: dict[str, Any], count: int = 1, **options: Any) -> Tensor:

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
        return of(stimuli, given) if count > 1 else given

    subject = AnyModel(model.eval(), inputs, stack, ("image",), **options)
    return extract(subject, numbered(count), pooling="grid:2", batch_size=count)["image"].values


def tower_and_clip(grid: tuple[int, int, int], video: bool) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = ZOO["Qwen2_5_VLForConditionalGeneration"][1]().model.eval()
    given = joined(*qwen([[grid]], video))
    fill = IMG + 1 if video else IMG
    return model, given | {"mm_token_type_ids": (given["input_ids"] == fill).int() * (2 if video else 1)}


CLIPS = [((1, 8, 2), False), ((4, 4, 4), True), ((3, 4, 8), True)]


@pytest.mark.parametrize(("grid", "video"), CLIPS)
def test_patches_among_words_lie_as_the_inputs_say(grid, video):
    """64 x 16 pixels, four frames of 2 x 2, three frames of 2 x 4."""
    model, given = tower_and_clip(grid, video)
    with torch.no_grad(), capture(model, [f"{LM}.0", f"{LM}.3"]) as taps:
        model(**given)
    frames, height, width = grid[0], grid[1] // 2, grid[2] // 2
    values = grid_features(model, LM, given)
    for layer, path in ((1, f"{LM}.0"), (4, f"{LM}.3")):
        own = taps[path][0][given["input_ids"][0] == (IMG + 1 if video else IMG)]
        truth = regrid(own.view(frames, height, width, -1), 2, 2).mean(0)
        torch.testing.assert_close(values[layer, 0], truth)


@pytest.mark.parametrize(("grid", "video"), CLIPS)
def test_patches_in_windows_lie_as_the_inputs_say(grid, video):
    """The tower lists patches in groups of 2 x 2, and permutes the groups into windows."""
    model, given = tower_and_clip(grid, video)
    (frames, height, width), pixels = grid, given["pixel_values_videos" if video else "pixel_values"]
    embedded = model.get_submodule("model.visual.patch_embed")(pixels)  # in groups, before the windows
    ordered = embedded.view(frames, height // 2, width // 2, 2, 2, -1).transpose(2, 3).reshape(*grid, -1)
    values = grid_features(model, TOWER, given)
    torch.testing.assert_close(values[0, 0], regrid(ordered, 2, 2).mean(0))


def test_a_picture_that_is_wider_than_high():
    torch.manual_seed(0)
    model = transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
        )
    ).eval()
    pixels = torch.randn(2, 3, 16, 64)  # 16 patches
    with torch.no_grad(), capture(model, ["encoder.layer.1"]) as taps:
        model(pixels)
    truth = regrid(taps["encoder.layer.1"][:, 1:].view(2, 2, 8, 24), 2, 2)
    torch.testing.assert_close(grid_features(model, "encoder.layer", {"pixel_values": pixels}, 2)[-1], truth)


def test_pixels_seen_through_a_tower_and_a_projector():
    torch.manual_seed(0)
    model = ZOO["LlavaForConditionalGeneration"][1]().model.eval()
    given = {"input_ids": torch.tensor([[11, *[IMG] * 16, 12]]), "pixel_values": torch.randn(1, 3, 32, 32)}
    with torch.no_grad(), capture(model, [f"{LM}.2"]) as taps:
        model(**given)
    truth = regrid(taps[f"{LM}.2"][:, 1:17].view(1, 4, 4, -1), 2, 2)
    torch.testing.assert_close(grid_features(model, LM, given)[3], truth)


def test_patches_that_are_merged_row_by_row():
    """PaddleOCR-VL names the same merge size as Qwen2.5-VL, but its patches are packed row by row."""
    torch.manual_seed(0)
    narrow = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.PaddleOCRVLConfig(
        vision_config=narrow | {"image_size": 32, "patch_size": 8, "spatial_merge_size": 2},
        text_config=narrow | {"head_dim": 8} | {"num_key_value_heads": 2, "vocab_size": 256, "pad_token_id": 0}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
        image_token_id=IMG, video_token_id=IMG + 1, vision_start_token_id=IMG + 2, vision_end_token_id=IMG + 3,
    )  # fmt: skip
    model = transformers.PaddleOCRVLForConditionalGeneration(config).eval()
    (row,), (shown,) = qwen([[(1, 4, 8)]])
    shown["pixel_values"] = torch.randn(32, 3, 8, 8)
    given = joined([row], [shown])
    given["mm_token_type_ids"] = (given["input_ids"] == IMG).int()
    tower = "model.visual.vision_model.encoder.layers"
    for stack, height, width in ((tower, 4, 8), (LM, 2, 4)):
        with torch.no_grad(), capture(model, [f"{stack}.1"]) as taps:
            model(**given)
        state = taps[f"{stack}.1"]
        own = state if stack == tower else state[given["input_ids"] == IMG]
        truth = regrid(own.view(height, width, -1), 2, 2)
        torch.testing.assert_close(grid_features(model, stack, given)[2, 0], truth)


def test_queries_tiles_and_several_pictures_are_refused():
    torch.manual_seed(0)
    tiny = ZOO["Blip2ForConditionalGeneration"][1]()
    with pytest.raises(
        ValueError, match=r"the tokens of 'pixel_values', 4 in a sample, do not lie in rows and columns"
    ):
        grid_features(tiny.model, "language_model.model.decoder.layers", tiny.inputs, 2)
    tiny = ZOO["LlavaOnevisionForConditionalGeneration"][1]()
    for stack in (LM, EYES):
        with pytest.raises(ValueError, match=r"'pixel_values' shows 2 pictures or tiles in a sample, and a patch grid"):
            grid_features(tiny.model, stack, tiny.inputs, 2)


def test_frames_of_a_video_tower():
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    model = transformers.VideoMAEModel(config).eval()
    pixels = torch.randn(2, 4, 3, 16, 16)  # two pairs of frames of 2 x 2
    with torch.no_grad(), capture(model, ["encoder.layer.1"]) as taps:
        model(pixels)
    truth = taps["encoder.layer.1"].view(2, 2, 2, 2, 24).mean(1)
    torch.testing.assert_close(grid_features(model, "encoder.layer", {"pixel_values": pixels}, 2)[-1], truth)


def test_blocks_that_merge_patches():
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=(32, 128), patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    model = transformers.SwinModel(config).eval()
    pixels = torch.randn(1, 3, 32, 128)
    with torch.no_grad():
        native = model(pixels, output_hidden_states=True).hidden_states
    values = grid_features(model, "encoder.layers", {"pixel_values": pixels})
    for layer, (state, height, width) in enumerate(zip(native[:2], (8, 4), (32, 16), strict=True)):
        torch.testing.assert_close(
            values[layer, 0, ..., : state.shape[-1]], regrid(state.view(height, width, -1), 2, 2)
        )


def test_what_a_user_says():
    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 6, 2, 2)
            self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)])

        def forward(self, pixels: Tensor) -> Tensor:
            return self.blocks(self.patches(pixels).flatten(2).transpose(1, 2))

    torch.manual_seed(0)
    model, given = Overlapping(), {"pixels": torch.randn(2, 3, 8, 8)}
    with pytest.raises(ValueError, match=r"16 in a sample, do not lie in rows .*, or say rows and columns yourself"):
        grid_features(model, "blocks", given, 2)

    def said(inputs: dict[str, Any]) -> Sequence[Any]:
        return [(4, 4)] * len(inputs["pixels"])

    values = grid_features(model, "blocks", given, 2, grids=said)
    torch.testing.assert_close(values[0], regrid(model.patches(given["pixels"]).permute(0, 2, 3, 1), 2, 2))


def test_nothing_of_the_measuring_is_left_behind():
    torch.manual_seed(0)
    model = ZOO["LlavaForConditionalGeneration"][1]().model.eval()
    given = {"input_ids": torch.tensor([[11, *[IMG] * 16, 12]]), "pixel_values": torch.randn(1, 3, 32, 32)}
    with torch.no_grad():
        before = model(**given).logits
        hooks = sum(len(m._forward_hooks) for m in model.modules())
    shown = AnyModel(model, lambda *_: given, LM, ("image",)).show([Stimulus(None, "", "a")], ("image",), "", None)  # type: ignore[arg-type]
    assert shown.grids["image"]() == (((1, 4, 4),),)
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    with torch.no_grad():
        assert torch.equal(model(**given).logits, before)
