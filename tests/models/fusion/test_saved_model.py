"""A saved model is opened on its own plan and experts, whole, or refused by name."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.fusion.saved_model import check_experts, describe_experts
from bridgework.probes.tensor_files import KEY, read_tensors

FILE = "bridges.safetensors"

PLANS = {
    "pairs": ({"pairs": ((1, 1), (2, 2))}, "plan.json says pairs"),
    "stream": ({"stream": "text"}, "plan.json says stream"),
    "gates": ({"gated": False}, "plan.json says gated"),
    "ways": ({"both_ways": True}, "plan.json says both_ways"),
    "rule": ({"rule": "middle"}, "plan.json says rule"),
}


@pytest.mark.parametrize("change", PLANS)
def test_another_plan_is_refused(fuse, make_experts, plan, tmp_path, change):
    plan = replace(plan, pairs=((0, 0), (2, 2)))
    fuse(plan).save(tmp_path)
    changes, message = PLANS[change]
    replace(plan, **changes).save(tmp_path / "plan.json")
    with pytest.raises(ValueError, match=rf"does not hold the bridges of its plan: {message} .*, they were trained w"):
        FusedModel.load(tmp_path, *make_experts())
    plan.save(tmp_path / "plan.json")  # the remedy
    assert FusedModel.load(tmp_path, *make_experts()).plan == plan


def test_other_experts_are_refused(fuse, make_experts, plan, tmp_path):
    fuse(plan).save(tmp_path)
    for side, part in ((0, "model"), (1, "model"), (1, "text_encoder")):
        experts = make_experts()
        with torch.no_grad():
            next(iter(getattr(experts[side], part).parameters())).view(-1)[5] += 1e-3
        name = ("understanding expert 'tiny-vlm'", "generation expert 'tiny-dit'")[side]
        with pytest.raises(ValueError, match=rf"was trained on the {name}, and the {part} of .* has other weights"):
            FusedModel.load(tmp_path, *experts)
    experts = make_experts()
    experts[0].name = "the same under another name"
    assert FusedModel.load(tmp_path, *experts).plan == plan


def test_hooks_and_adapters_of_an_expert_count(fuse, make_experts, plan, tmp_path):
    fuse(plan).save(tmp_path / "bare")
    experts = make_experts()
    block = experts[1].model.get_submodule(experts[1].blocks[0])
    steering = block.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.warns(UserWarning, match=r"trained on the generation expert .* has a hook on .* that it had not then"):
        FusedModel.load(tmp_path / "bare", *experts)
    steering.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FusedModel.load(tmp_path / "bare", *experts)
    experts = make_experts()
    experts[0].model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    before = describe_experts(experts)
    experts[0].model.disable_adapters()
    with pytest.raises(ValueError, match=r"understanding expert .* other weights or settings \(the adapters' disable"):
        check_experts(Path(FILE), before, describe_experts(experts))


def test_a_pipeline_is_described_with_its_encoders(pipeline, tiny_vlm):
    generator = pipeline("SD 3.5")
    before = describe_experts((tiny_vlm, generator))
    assert {"model", "pipe.vae", "pipe.text_encoder_3"} <= before[1]["modules"].keys()
    value = next(generator.expert.pipe.vae.parameters()).data.view(-1)[:1]
    kept = value.clone()
    value += 0.1
    try:
        with pytest.raises(
            ValueError, match=r"trained on the generation expert .* the pipe.vae of .* has other weights"
        ):
            check_experts(Path(FILE), before, describe_experts((tiny_vlm, generator)))
    finally:
        value.copy_(kept)


def test_experts_in_another_precision_are_a_warning(make_experts):
    before = describe_experts(make_experts())
    experts = make_experts()
    experts[1].model.bfloat16()
    after = describe_experts(experts)
    with pytest.warns(UserWarning, match=r"'tiny-dit' in torch.float32, and 'tiny-dit' is in torch.bfloat16: whether"):
        check_experts(Path(FILE), before, after)
    with pytest.raises(ValueError, match=r"whose model is a LlavaFor.*, and 'tiny-dit' has a SD3|has other parts"):
        check_experts(Path(FILE), before, before[::-1])


@pytest.mark.parametrize("trained", ["bridges", "lora", "all"])
def test_a_trained_model_is_opened_on_the_experts_it_began_with(fuse, make_experts, plan, tmp_path, trained):
    fused = fuse(plan)
    if trained != "bridges":
        fused.adapt(trained, 2)
    fused.train()
    with torch.no_grad():
        for parameter in fused.trained().parameters():
            parameter.add_(0.01 * parameter.requires_grad)
    fused.eval().save(tmp_path)
    again = FusedModel.load(tmp_path, *make_experts())
    for (name, one), (_, other) in zip(fused.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()
    if trained != "bridges":
        with pytest.raises(ValueError, match="has other weights or settings"):
            FusedModel.load(tmp_path, *fused.experts)  # these have changed with the model


def test_one_bit_of_any_tensor_is_noticed(fuse, make_experts, plan, tmp_path):
    fuse(plan).save(tmp_path)
    path, experts = tmp_path / FILE, make_experts()
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    places = json.loads(whole[8:start])
    for name, tensor in places.items():
        if name == "__metadata__":
            continue
        damaged = bytearray(whole)
        damaged[start + tensor["data_offsets"][0]] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=rf"train again \(the values of {name} are not those that were written\)"):
            FusedModel.load(tmp_path, *experts)
    for at in range(8, start, 29):  # in the header: an error, or the same tensors
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(bytes(damaged))
        with warnings.catch_warnings(), pytest.raises(ValueError, match=FILE):
            warnings.simplefilter("error")
            FusedModel.load(tmp_path, *experts)


def test_left_over_and_missing_tensors_are_refused(fuse, make_experts, plan, tmp_path):
    fuse(plan).save(tmp_path)
    path, experts = tmp_path / FILE, make_experts()
    state = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    first = min(state)
    for other in (state | {"bridges.9.gate": torch.zeros(1)}, {n: t for n, t in state.items() if n != first}):
        save_file(other, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"train again \((bridges.9.gate|bridges.*) is missing or left over\)"):
            FusedModel.load(tmp_path, *experts)


def test_what_an_earlier_version_wrote_is_opened_with_a_warning(fuse, make_experts, plan, tmp_path):
    fuse(plan).save(tmp_path)
    state, _, metadata = read_tensors(tmp_path / FILE)
    old = {"trained": json.dumps(json.loads(metadata[KEY])["about"]["trained"])}
    save_file(state, tmp_path / FILE, metadata=old)
    with pytest.warns(UserWarning, match="was written before it held hashes, plan and experts"):
        again = FusedModel.load(tmp_path, *make_experts())
    assert all(torch.equal(tensor, state[name]) for name, tensor in again._learnt().items())
    save_file(state | {"bridges.9.gate": torch.zeros(1)}, tmp_path / FILE, metadata=old)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"bridges.9.gate is missing, left over or of"):
        FusedModel.load(tmp_path, *make_experts())
