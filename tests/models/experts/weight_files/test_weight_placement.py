"""Weights are read in the format and onto the devices that are asked for, or one sentence says why not."""

from __future__ import annotations

import json

import pytest
import torch

from bridgework.models.experts.opening import open_expert
from bridgework.models.experts.weight_files import loading
from bridgework.models.experts.weight_files.weight_placement import WeightPlacement
from bridgework.probes.extraction.extracting import extract
from bridgework.tests.models.tiny_folders import write
from bridgework.tests.probes.toys import letters

STIMULI = letters("red circle", "two blue squares", "a circle")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Dinov2Model", "LlavaForConditionalGeneration"])
@pytest.mark.parametrize("dtype", ["bf16", torch.bfloat16])
def test_experts_are_read_in_half_precision_and_their_features_are_near(tmp_path, architecture, dtype):
    write(architecture, tmp_path)
    exact, half = open_expert(tmp_path), open_expert(tmp_path, dtype=dtype)
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    modality = half.modalities[0]
    kept = [extract(expert, STIMULI)[modality].layer("0") for expert in (exact, half)]
    assert kept[1].dtype == torch.float32
    assert 0 < (kept[1] - kept[0]).abs().max() < 0.1 * kept[0].abs().max()


def test_the_checkpoints_own_format(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    open_expert(tmp_path, dtype="fp16").model.save_pretrained(tmp_path)
    assert open_expert(tmp_path, dtype="auto").model.dtype == torch.float16
    assert open_expert(tmp_path).model.dtype == torch.float32


def test_twins_and_maps_of_devices(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    assert open_expert(tmp_path, random_weights=True, dtype="bf16").model.dtype == torch.bfloat16
    spread = open_expert(tmp_path, device_map={"": "cpu"})
    plain = extract(open_expert(tmp_path), STIMULI)["text"].values
    assert torch.equal(extract(spread, STIMULI)["text"].values, plain)


def test_a_checkpoint_that_was_saved_quantised_keeps_its_format():
    class Config:
        quantization_config = {"quant_method": "fp8"}  # noqa: RUF012

    assert WeightPlacement().options(Config) == {"dtype": "auto"}
    assert WeightPlacement(torch.bfloat16).options(Config) == {"dtype": torch.bfloat16}
    assert WeightPlacement().options(object()) == {"dtype": torch.float32}
    named = WeightPlacement.of("mine", None, "auto", "bitsandbytes_4bit", False).options(object())
    assert named["dtype"] == "auto" and named["device_map"] == "auto" and named["quantization_config"].load_in_4bit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype of expert 'llama' is 'int8': expected fp32, bf16, fp16 or auto"),
        ({"dtype": torch.int8}, "expected fp32, bf16, fp16 or auto"),
        ({"quantization": "5bit"}, "quantization of expert 'llama' is '5bit': expected a config .* bitsandbytes_4bit"),
        ({"quantization": "gptq"}, "'gptq' of expert 'llama' needs settings or a package"),
        (
            {"quantization": "torchao"},
            r"needs settings or a package \(No module named 'torchao'\): install",
        ),
        ({"random_weights": True, "device_map": "auto"}, "drawn at random: leave device_map"),
        ({"random_weights": True, "dtype": "auto"}, "drawn at random: leave device_map"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(tmp_path, options, message):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps({}))  # it would fail as soon as it is read
    with pytest.raises(ValueError, match=message):
        open_expert(tmp_path / "llama", **options)


def test_weights_are_not_repacked_in_the_first_pass(tmp_path, monkeypatch):
    """As bitsandbytes does on some CPUs; it is not installed, so a layer is marked as its 4-bit layers are."""
    write("LlamaForCausalLM", tmp_path)
    read = loading.weights

    def packing(*given, **options):
        model = read(*given, **options)
        model.model.layers[0].mlp.up_proj.support_avx512bf16_for_cpu = True
        return model

    monkeypatch.setattr(loading, "weights", packing)
    assert open_expert(tmp_path).model.model.layers[0].mlp.up_proj.support_avx512bf16_for_cpu is False


def test_families_that_are_read_one_way_say_so():
    with pytest.raises(ValueError, match="'scenes-dit' takes no dtype: a pixel MMDiT is small, and read in float32"):
        open_expert("scenes-dit", dtype="bf16")
