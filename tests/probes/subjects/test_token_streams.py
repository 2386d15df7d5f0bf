"""Streams: where each modality's tokens stand is found by changing inputs, in every family and order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from bridgework.benchmarks.support.tiny_built import Built
from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.probes.subjects.token_movement import Stream
from bridgework.probes.subjects.token_streams import find_streams

# A stack of one stream, and where its tokens stand in each of the two samples.
LM = "model.language_model.layers"
CHAT = {"text": [0, 1, 2, *range(7, 12)], "image": range(3, 7)}
LONG = {"text": [0, 1, 2, *range(19, 24)], "image": range(3, 19)}
ROWS = {
    "LlavaForConditionalGeneration": (LM, LONG),
    "SmolVLMForConditionalGeneration": ("model.text_model.layers", CHAT),
    "Qwen2_5_VLForConditionalGeneration": (LM, CHAT),
    "Gemma3ForConditionalGeneration": (LM, CHAT),
    "Blip2ForConditionalGeneration": ("language_model.model.decoder.layers", {"image": range(4), "text": range(4, 10)}),
    "ChameleonForConditionalGeneration": ("model.layers", LONG),
    "Dinov2Model": ("encoder.layer", {"special": [0], "image": range(1, 17)}),
    "DINOv3ViTModel": ("model.layer", {"special": [0, 1, 2], "image": range(3, 19)}),
    "CLIPModel": ("text_model.encoder.layers", {"text": range(8), "special": [8]}),
    "FlavaModel (uni + fusion encoder)": (
        "multimodal_model.encoder.layer", {"special": [0], "image": range(1, 18), "text": range(18, 27)},
    ),
    "Flux2Transformer2DModel": ("single_transformer_blocks", {"text": range(7), "image": range(7, 23)}),
    "Lumina2Transformer2DModel": ("layers", {"text": range(7), "image": range(7, 23)}),
}  # fmt: skip


def built(name: str) -> Built:
    torch.manual_seed(0)
    return ZOO[name][1]()


def kinds(stream: Stream) -> dict[str, list[list[int]]]:
    return {kind: positions.tolist() for kind, positions in stream.positions.items()}


@pytest.mark.parametrize("name", ROWS)
def test_tokens_of_one_sequence(name):
    tiny, (stack, expected) = built(name), ROWS[name]
    stream = find_streams(tiny.model.eval(), tiny.inputs)[stack][None]
    width = stream.shape[1]
    wanted = {kind: [list(at), [width + i for i in at]] for kind, at in expected.items()}
    assert kinds(stream) == wanted
    assert stream.dim_axis == 2


@pytest.mark.parametrize("name", ZOO)
def test_every_token_of_the_zoo_has_one_kind(name):
    tiny = built(name)
    for streams in find_streams(tiny.model.eval(), tiny.inputs).values():
        for stream in streams.values():
            assert "mixed" not in stream.positions
            every = torch.cat([p[p >= 0] for p in stream.positions.values()]).sort().values
            dim = stream.shape[stream.dim_axis]
            assert every.tolist() == list(range(torch.Size(stream.shape).numel() // dim))


@pytest.mark.parametrize("name", ["SD3Transformer2DModel", "FluxTransformer2DModel", "CogVideoXTransformer3DModel"])
def test_dual_streams(name):
    tiny = built(name)
    for streams in find_streams(tiny.model.eval(), tiny.inputs).values():
        assert {stream: list(found.positions) for stream, found in streams.items()} == {
            "image": ["image"],
            "text": ["text"],
        }


def test_text_that_is_read_by_cross_attention_has_no_tokens():
    tiny = built("PixArtTransformer2DModel")
    ((path, streams),) = find_streams(tiny.model.eval(), tiny.inputs).items()
    assert path == "transformer_blocks"
    assert list(streams[None].positions) == ["image"]


def test_a_unets_maps_are_image_all_the_way():
    tiny = built("UNet2DConditionModel")
    found = find_streams(tiny.model.eval(), tiny.inputs)
    assert list(found) == ["down_blocks", "mid_block", "up_blocks"]
    assert [streams[None].shape for streams in found.values()] == [(2, 16, 16, 16), (2, 32, 8, 8), (2, 32, 8, 8)]
    for streams in found.values():
        assert streams[None].dim_axis == 1
        assert list(streams[None].positions) == ["image"]


def test_an_unbatched_unified_model():
    tiny = built("Cosmos3OmniTransformer (MoT)")
    streams = find_streams(tiny.model.eval(), tiny.inputs)["layers"]
    assert kinds(streams["und_seq"]) == {"text": [list(range(7))]}
    assert kinds(streams["gen_seq"]) == {"image": [list(range(16))]}


def test_padding_is_told_by_the_mask():
    tiny = built("Qwen2Model (text LM)")
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:], mask[1, :2] = 0, 0
    stream = find_streams(tiny.model.eval(), {**tiny.inputs, "attention_mask": mask})["model.layers"][None]
    assert kinds(stream) == {
        "text": [[0, 1, 2, 3, 4, 5, -1], [11, 12, 13, 14, 15, 16, 17]],
        "padding": [[6, 7, 8], [9, 10, -1]],
    }


def test_frame_tokens_of_images_are_special():
    tiny = built("Emu3ForConditionalGeneration")
    positions = kinds(find_streams(tiny.model.eval(), tiny.inputs)["model.text_model.layers"][None])
    assert positions["special"][0] == [7, 12, 17, 22]  # the end of each row of four image tokens
    assert positions["image"][0] == [i for i in range(3, 23) if i not in positions["special"][0]]


# ---- order


@pytest.mark.parametrize("grids", [[(1, 8, 12), (1, 8, 12)], [(1, 8, 12), (1, 16, 4), (1, 4, 4)]])
def test_patches_in_windows_are_read_row_by_row(grids):
    """Qwen2.5-VL packs samples, lists patches in groups of 2 x 2 and permutes the groups into windows."""
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=16, intermediate_size=16, out_hidden_size=16, num_heads=2, patch_size=4,
        spatial_merge_size=2, temporal_patch_size=1, window_size=16, fullatt_block_indexes=[1],
    )  # fmt: skip
    tower = Qwen2_5_VisionTransformerPretrainedModel(config).eval()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"vision_config": config, "to_dict": config.to_dict})()
            self.tower = tower

        def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
            return self.tower(pixel_values, image_grid_thw)

    grid = torch.tensor(grids)
    # Each patch holds its place in reading order, in the order in which Qwen's processor lists patches.
    places = [torch.arange(h * w).view(h // 2, 2, w // 2, 2).permute(0, 2, 1, 3).flatten() for _, h, w in grids]
    pixels = torch.cat(places)[:, None].expand(-1, 48) / 10 + torch.randn(48)
    found = find_streams(Model(), {"pixel_values": pixels, "image_grid_thw": grid}, samples=len(grids))
    positions = found["tower.blocks"][None].positions["image"]
    entering = []
    handle = tower.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: entering.append(args or kwargs), with_kwargs=True
    )
    with torch.no_grad():
        tower(pixels, grid)
    handle.remove()
    states = entering[0][0] if isinstance(entering[0], tuple) else entering[0]["hidden_states"]
    for sample, (_, height, width) in enumerate(grids):
        row = positions[sample][positions[sample] >= 0]
        assert len(row) == height * width
        assert not torch.equal(row, row.sort().values)
        with torch.no_grad():
            reading = torch.arange(height * width)[:, None].expand(-1, 48) / 10 + pixels[0] - places[0][0] / 10
            torch.testing.assert_close(states[row], tower.patch_embed(reading))


class Odd(nn.Module):
    """Holds the batch second, puts text before image, each reversed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0), 2)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        states = torch.cat([self.embed(text).flip(1), self.embed(image).flatten(1, 2).flip(1)], 1)
        return self.encoder(states.transpose(0, 1))


def test_a_plain_module_with_the_batch_second():
    torch.manual_seed(0)
    model = Odd().eval()
    inputs = {"text": torch.randn(3, 2, 4), "image": torch.randn(3, 2, 2, 4)}
    stream = find_streams(model, inputs)["encoder.layers"][None]
    assert stream.shape == (6, 3, 8)
    assert kinds(stream)["text"] == [[0, 3], [1, 4], [2, 5]]  # token * batch + sample
    assert kinds(stream)["image"] == [[6, 9, 12, 15], [7, 10, 13, 16], [8, 11, 14, 17]]


def test_as_many_samples_as_tokens():
    torch.manual_seed(0)
    inputs = {"text": torch.randn(6, 2, 4), "image": torch.randn(6, 2, 2, 4)}
    stream = find_streams(Odd().eval(), inputs)["encoder.layers"][None]
    assert kinds(stream)["text"] == [[i, 6 + i] for i in range(6)]


def test_inputs_with_the_batch_second():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16), 2).eval()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, images: Tensor) -> Tensor:
            return self.encoder(images)

    stream = find_streams(Model().eval(), {"images": torch.randn(8, 4, 16)}, samples=4)["encoder.layers"][None]
    assert kinds(stream)["image"] == [[4 * token + sample for token in range(8)] for sample in range(4)]


@pytest.mark.parametrize(("name", "keeps"), [("attention_mask", True), ("src_key_padding_mask", False)])
def test_masks_that_keep_and_masks_that_leave_out(name, keeps):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 8)
            self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 8) for _ in range(2))  # the batch second

        def forward(self, input_ids: Tensor, image_seq_mask: Tensor, **masks: Tensor) -> Tensor:
            states = self.embed(input_ids).transpose(0, 1)
            for layer in self.layers:
                states = layer(states)
            return states

    mask = torch.ones(4, 4, dtype=torch.bool)  # as many samples as tokens
    mask[0, 2:], mask[3, 3:] = False, False
    inputs = {"input_ids": torch.randint(0, 30, (4, 4)), "image_seq_mask": ~mask, name: mask if keeps else ~mask}
    torch.manual_seed(0)
    found = kinds(find_streams(Model().eval(), inputs)["layers"][None])
    assert found["text"] == [[0, 4, -1, -1], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, -1]]
    assert found["padding"] == [[8, 12], [-1, -1], [-1, -1], [15, -1]]


def test_a_model_that_draws_is_refused():
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))

        def forward(self, image: Tensor) -> Tensor:
            states = image[:, torch.randperm(image.shape[1])]
            for layer in self.layers:
                states = layer(states)
            return states

    with pytest.raises(ValueError, match=r"Drawing gives 'layers.0' something else each time .* eval\(\), or fix what"):
        find_streams(Drawing(), {"image": torch.randn(2, 8, 4)})


def test_an_error_before_the_first_block_is_the_models_own():
    tiny = built("Dinov2Model")
    with pytest.raises(ValueError, match="channel"):
        find_streams(tiny.model.eval(), {"pixel_values": torch.randn(2, 4, 32, 32)})
    broken = nn.Module()
    broken.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    broken.forward = lambda image: broken.layers[0](image @ torch.ones(3, 3))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        find_streams(broken, {"image": torch.randn(2, 8, 4)})


def test_whether_the_order_was_found():
    vlm = built("LlavaForConditionalGeneration")
    found = find_streams(vlm.model.eval(), vlm.inputs)
    assert found["model.vision_tower.encoder.layers"][None].ordered
    assert not found["model.language_model.layers"][None].ordered  # mixed by the vision tower


def test_codes_of_an_image_are_no_words():
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 8)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))

        def forward(self, input_ids: Tensor) -> Tensor:
            states = self.embed(input_ids).flatten(1, 2)
            for layer in self.layers:
                states = layer(states)
            return states

    torch.manual_seed(0)
    stream = find_streams(Codes(), {"input_ids": torch.randint(0, 30, (2, 3, 3))})["layers"][None]
    assert kinds(stream) == {"image": [list(range(9)), list(range(9, 18))]}


def test_inputs_whose_names_do_not_tell():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    x = torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match=r"whether the input 'x' is image or text: say so, as kinds=\{'x': 'image'\}"):
        find_streams(Plain(), {"x": x})
    stream = find_streams(Plain(), {"x": x}, kinds={"x": "image"})["layers"][None]
    assert kinds(stream) == {"image": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]}
    with pytest.raises(ValueError, match="none of mask is image or text by its name"):
        find_streams(Plain(), {"mask": x[..., 0]})
    with pytest.raises(ValueError, match=r"shape \(5, 4\) cannot be divided among 2 samples"):
        find_streams(Plain(), {"x": x[0]}, kinds={"x": "image"}, samples=2)


def test_what_is_mixed_before_the_first_block_stays_mixed():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            states = torch.cat([image, text], 1)
            states = states + states.mean(1, keepdim=True)
            for layer in self.layers:
                states = layer(states)
            return states

    stream = find_streams(Mixer(), {"image": torch.randn(2, 3, 4), "text": torch.randn(2, 2, 4)})["layers"][None]
    assert list(stream.positions) == ["mixed"]


def test_the_model_is_as_before():
    tiny = built("LlavaForConditionalGeneration")
    model = tiny.model.eval()
    with torch.no_grad():
        model(**tiny.inputs)  # transformers hangs hooks of its own on the vision tower

    def trace() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    before, weights = trace(), {name: p.detach().clone() for name, p in model.named_parameters()}
    given = {name: value.clone() for name, value in tiny.inputs.items()}
    find_streams(model, tiny.inputs)
    assert trace() == before
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(torch.equal(value, given[name]) for name, value in tiny.inputs.items())
