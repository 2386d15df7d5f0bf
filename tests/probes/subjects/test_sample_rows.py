"""Packed rows: each image, clip and tile belongs to the sample whose placeholders it fills, and none is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from bridgework.benchmarks.support.tiny_built import IMG, NH, NKV, VL, H, I, L, V
from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.input_changes import count_samples
from bridgework.probes.subjects.token_streams import find_streams

Shown = dict[str, Tensor]
LM, TOWER = "model.language_model.layers", "model.visual.blocks"


def numbered(count: int) -> Stimuli:
    return Stimuli([Stimulus(Image.new("RGB", (1, 1), (n, 0, 0)), str(n), str(n)) for n in range(count)], "numbers")


def of(stimuli: Sequence[Stimulus], given: dict[str, Any]) -> dict[str, Any]:
    """The rows of some stimuli in inputs of all of them."""
    return {name: value[[int(stimulus.id) for stimulus in stimuli]] for name, value in given.items()}


def joined(rows: Sequence[list[int]], shown: Sequence[Shown]) -> dict[str, Any]:
    """Inputs of several samples: ids padded on the right, pictures one after another."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask} | {n: torch.cat([part[n] for part in shown]) for n in shown[0]}


def check(model: nn.Module, stack: str, rows: Sequence[list[int]], shown: Sequence[Shown], types: bool = False) -> None:
    """A batch gives the features of each sample alone."""

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
        numbers = [int(stimulus.id) for stimulus in stimuli]
        given = joined([rows[n] for n in numbers], [shown[n] for n in numbers])
        kinds = (given["input_ids"] == IMG).int() + 2 * (given["input_ids"] == IMG + 1).int()
        return given | ({"mm_token_type_ids": kinds} if types else {})

    subject = AnyModel(model.eval(), inputs, stack, ("image", "text") if stack == LM else ("image",))
    alone, together = (
        extract(subject, numbered(len(rows)), joint=stack == LM, batch_size=size) for size in (1, len(rows))
    )
    for modality in subject.modalities:
        torch.testing.assert_close(together[modality].values, alone[modality].values, rtol=1e-4, atol=1e-5)


def qwen(clips: Sequence[Sequence[tuple[int, int, int]]], video: bool = False) -> tuple[list[list[int]], list[Shown]]:
    """Words around the placeholders of each sample's pictures, and the pictures' patches."""
    torch.manual_seed(1)
    fill, (pixels, grid) = IMG, ("pixel_values", "image_grid_thw")
    if video:
        fill, (pixels, grid) = IMG + 1, ("pixel_values_videos", "video_grid_thw")
    rows, shown = [], []
    for sample, grids in enumerate(clips):
        framed = [i for t, h, w in grids for i in (IMG + 2, *[fill] * (t * h * w // 4), IMG + 3)]
        rows.append([11, 12, *framed, *range(20, 24 + sample)])
        thw = torch.tensor(grids)
        shown.append({pixels: torch.randn(int(thw.prod(1).sum()), 384), grid: thw})
    return rows, shown


CLIPS = {
    "one image, three images": ([[(1, 4, 4)], [(1, 4, 4)] * 3], False),
    "images of unlike sizes": ([[(1, 4, 8), (1, 8, 4)], [(1, 2, 4)], [(1, 4, 4)]], False),
    "clips of unlike length": ([[(3, 4, 4)], [(1, 4, 4)]], True),
}


@pytest.mark.parametrize("case", CLIPS)
@pytest.mark.parametrize("stack", [TOWER, LM])
def test_patches_packed_into_rows(case, stack):
    torch.manual_seed(0)
    clips, video = CLIPS[case]
    check(ZOO["Qwen2_5_VLForConditionalGeneration"][1]().model, stack, *qwen(clips, video), types=True)


def test_how_many_tokens_each_sample_has():
    torch.manual_seed(0)
    model = ZOO["Qwen2_5_VLForConditionalGeneration"][1]().model.eval()
    rows, shown = qwen([[(1, 4, 4)], [(1, 4, 4)] * 3])
    given = joined(rows, shown)
    given["mm_token_type_ids"] = (given["input_ids"] == IMG).int()
    found = find_streams(model, given)
    for stack, counts in ((TOWER, [16, 48]), (LM, [4, 12])):
        assert (found[stack][None].positions["image"] >= 0).sum(1).tolist() == counts
    assert found[TOWER][None].ordered


def test_pictures_whose_sizes_no_input_says():
    """As many samples as colours, and only the words tell that the first has two pictures."""
    torch.manual_seed(0)
    model = ZOO["LlavaForConditionalGeneration"][1]().model
    rows = [[11, *[IMG] * 16 * count, *range(20, 24 + count)] for count in (2, 1, 3)]
    shown = [{"pixel_values": torch.randn(count, 3, 32, 32)} for count in (2, 1, 3)]
    check(model, "model.vision_tower.encoder.layers", rows, shown)
    check(model, LM, rows, shown)


def test_as_many_pictures_as_samples_but_not_one_each():
    torch.manual_seed(0)
    model = ZOO["LlavaForConditionalGeneration"][1]().model.eval()
    rows = [[11, *[IMG] * 32, 20, 21], [11, 12, 13]]
    given = joined(rows, [{"pixel_values": torch.randn(2, 3, 32, 32)}, {"pixel_values": torch.empty(0, 3, 32, 32)}])
    found = find_streams(model, given)
    assert (found["model.vision_tower.encoder.layers"][None].positions["image"] >= 0).sum(1).tolist() == [32, 0]


def test_pictures_filled_up_to_one_number_of_patches():
    torch.manual_seed(0)
    narrow = {"num_attention_heads": NH, "intermediate_size": I}
    config = transformers.Lfm2VlConfig(
        vision_config=narrow | {"hidden_size": 24, "num_hidden_layers": VL, "num_patches": 16, "patch_size": 8},
        text_config=narrow | {"hidden_size": H, "num_hidden_layers": L, "num_key_value_heads": NKV, "vocab_size": V}
        | {"model_type": "lfm2", "layer_types": ["full_attention"] * L},
        image_token_id=IMG, downsample_factor=2, projector_hidden_size=H,
    )  # fmt: skip
    model = transformers.Lfm2VlForConditionalGeneration(config)
    rows, shown = [], []
    for sizes in ([(4, 4)], [(4, 8), (2, 8), (8, 2)]):
        there = torch.stack([torch.arange(32) < h * w for h, w in sizes])
        pixels = torch.randn(len(sizes), 32, 192) * there[..., None]
        shown.append(
            {"pixel_values": pixels, "pixel_attention_mask": there.long(), "spatial_shapes": torch.tensor(sizes)}
        )
        rows.append([11, *[IMG] * sum(h * w // 4 for h, w in sizes), 20, 21, 22])
    check(model, "model.vision_tower.encoder.layers", rows, shown)
    check(model, LM, rows, shown)


def test_what_cannot_be_told_is_refused():
    torch.manual_seed(0)
    tower = ZOO["Qwen2_5_VLForConditionalGeneration"][1]().model.eval().get_submodule("model.visual")

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Any:
            return self.tower(pixel_values, image_grid_thw)

    given = qwen([[(1, 4, 4)] * 4])[1][0]
    with pytest.raises(ValueError, match=r"'pixel_values' of shape \(64, 384\) cannot be divided among 2 samples"):
        find_streams(Tower(), given, samples=2)
    assert count_samples(given) == 4
    found = find_streams(Tower(), given)["tower.blocks"][None]
    assert (found.positions["image"] >= 0).sum(1).tolist() == [16] * 4
