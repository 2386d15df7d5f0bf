"""The planner comes within 15 % of what real steps allocate, and the documented table is what it computes."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bridgework.__main__ import main
from bridgework.benchmarks import memory
from bridgework.models.costs import estimate
from bridgework.models.costs.estimate import cost_table, estimate_cost
from bridgework.models.costs.published import Unplanned
from bridgework.models.experts.opening import open_expert
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.layouts import lay_out

FEW = {"batch": 2, "tokens": 6}
REAL = Path(__file__).parents[3] / "docs" / "real.md"
HEADS, DIM, WIDTH, TEXT = 2, 8, 16, 32  # of the small generation expert, and the width of the small understanding one


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of two small experts, of four and of three blocks, with nothing in them but a config."""
    understanding, generation = (tmp_path_factory.mktemp(name) for name in ("understanding", "generation"))
    text = {"model_type": "llama", "vocab_size": 64, "hidden_size": TEXT, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
    image = {"_class_name": "SD3Transformer2DModel", "sample_size": 16, "patch_size": 4, "in_channels": 3,
        "out_channels": 3, "num_layers": 3, "attention_head_dim": DIM, "num_attention_heads": HEADS,
        "joint_attention_dim": 16, "caption_projection_dim": WIDTH, "pooled_projection_dim": 8,
        "pos_embed_max_size": 4, "qk_norm": "rms_norm"}  # fmt: skip
    (understanding / "config.json").write_text(json.dumps(text))
    (generation / "config.json").write_text(json.dumps(image))
    return understanding, generation


@pytest.fixture(scope="module")
def planned(small):
    return estimate_cost(small[0], small[1], "H", **FEW)


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "H", "batch": 8, "precision": "float32"},
        {"layout": "dense", "batch": 16, "precision": "mixed", "trained": "all", "checkpointing": True},
    ],
    ids=lambda options: options["layout"],
)
def test_memory_of_our_experts(options):
    experts = ("scenes-vlm", "scenes-dit")
    measured, tokens = memory.measure(*experts, **options)
    assert estimate_cost(*experts, **options, tokens=tokens).peak == pytest.approx(measured, rel=0.15)


def test_the_committed_measurement_holds_the_promise():
    measured = pd.read_csv(memory.RESULTS / "memory.csv")
    assert set(measured.generation) == {"scenes-dit", "emoji-dit"}
    assert measured.quotient.between(0.85, 1.15).all()


def test_what_is_trained(planned):
    plan = lay_out("H", 4, 3)
    assert planned.plan == plan
    # Of each bridge four maps between the heads of both, two within the first, and a gate (models/bridges/bridge.py).
    assert planned.trained == len(plan.pairs) * (4 * TEXT * WIDTH + 2 * TEXT * TEXT + WIDTH)
    assert planned.step.held["trained"] == 4 * planned.trained
    assert planned.step.held["weights"] >= 4 * (planned.parameters - planned.trained)  # and buffers


def test_a_mix_trains_one_weight_more_for_each_block_that_it_reads(small):
    last, soft = (estimate_cost(small[0], small[1], layout, **FEW) for layout in ("last", "soft"))
    assert soft.trained == last.trained + 3 * 4  # three bridges, four blocks
    assert soft.step.held["activations"] > last.step.held["activations"]  # the blocks' states, once for all bridges


def test_more_is_trained_with_lora_and_all(small, planned):
    lora, everything = (estimate_cost(small[0], small[1], "H", trained=trained, **FEW) for trained in ("lora", "all"))
    assert planned.trained < lora.trained
    assert everything.trained == everything.parameters == planned.parameters
    assert lora.parameters - planned.parameters == lora.trained - planned.trained


def test_frozen_weights_in_half_precision(small, planned):
    half = estimate_cost(small[0], small[1], "H", precision="bf16", **FEW)
    assert half.step.held["trained"] == planned.step.held["trained"]
    frozen = planned.parameters - planned.trained
    assert planned.step.held["weights"] - half.step.held["weights"] >= 2 * frozen


def test_a_sharded_model_is_split_and_what_runs_is_gathered(small, planned):
    shared, copied = (
        estimate_cost(small[0], small[1], "H", gpus=4, replicated=copied, **FEW) for copied in (False, True)
    )
    assert shared.step.held["trained"] == pytest.approx(shared.trained * 4 / 4, rel=0.01)
    assert shared.step.held["weights"] == pytest.approx(planned.step.held["weights"] / 4, rel=0.01)
    assert 0 < shared.gathered < 2 * shared.parameters + 2 * shared.trained  # of bfloat16, with gradients
    assert (copied.peak, copied.gathered) == (planned.peak, 0)
    assert copied.hours(10) == pytest.approx(4 * planned.hours(10))


def test_checkpointing_trades_memory_for_operations(small):
    kept, again = (
        estimate_cost(small[0], small[1], "H", batch=64, tokens=16, checkpointing=given) for given in (False, True)
    )
    assert again.step.held["activations"] < 0.6 * kept.step.held["activations"]
    assert again.step.forward == kept.step.forward and again.step.backward > kept.step.backward


def test_hours_are_operations_over_rate(planned):
    seconds = planned.operations * 1000 / (989.4e12 * 0.5)
    assert planned.hours(1000, "H100", utilisation=0.5) == pytest.approx(seconds / 3600)
    assert planned.hours(1000, "A100") > planned.hours(1000, "H100")


def test_kinds_add_up_to_the_peak(planned):
    row = cost_table(planned, 100).iloc[0]
    kinds = ("weights", "trained", "gradients", "optimizer", "activations", "transient", "gathered")
    assert sum(row[f"{kind} GB"] for kind in kinds) == pytest.approx(row["peak GB"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "H", "batch": 0}, "batch is 0: expected a whole number from 1 to"),
        ({"layout": "H", "precision": "int8"}, "unknown precision 'int8': expected one of float32, mixed, bf16"),
        ({"layout": "Y"}, "one trunk fuses no two experts"),
        ({"layout": "zigzag"}, "unknown layout 'zigzag'"),
        ({"layout": BridgePlan(((0, 0),), "image", "middle", {}, 5, 3)}, "the plan is for towers of 5 and 3 blocks"),
        ({"layout": lay_out("H", 4, 3, semantic_tokens=4)}, "semantic tokens cannot be planned"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_planned(options, message, small):
    with pytest.raises(ValueError, match=message):
        estimate_cost(small[0], small[1], **options)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("TPU",), "unknown gpu 'TPU'"), (("H100", 40), "utilisation is 40: expected")]
)
def test_hours_of_what_is_no_gpu_or_share(planned, arguments, message):
    with pytest.raises(ValueError, match=message):
        planned.hours(1, *arguments)


def test_command(small, tmp_path, capsys):
    out = tmp_path / "plan.csv"
    main(["plan", *map(str, small), "--layout", "H", "last", "--batch", "2", "--tokens", "6", "--out", str(out)])
    rows = pd.read_csv(out)
    assert list(rows.layout) == ["H", "last"]
    printed = capsys.readouterr().out
    assert f"{rows['peak GB'][0]:.4g}" in printed and "GPU hours" in printed


def test_a_step_is_computed_of_experts_whose_config_is_not_known(monkeypatch):
    """It takes what is planned from configs, but for what the tokenizer and the measured passes leave in memory."""
    experts = open_expert("scenes-vlm"), open_expert("scenes-dit")
    options = {"batch": 4, "precision": "float32"}
    planned = estimate_cost(*experts, "H", tokens=8, **options)  # open, and planned by their names

    def unknown(*_):
        raise Unplanned("no config is known")

    monkeypatch.setattr(estimate, "_planned", unknown)
    before = [p.requires_grad for expert in experts for p in expert.model.parameters()]
    computed = estimate_cost(*experts, "H", tokens=8, **options)
    assert (computed.trained, computed.step.held["trained"]) == (planned.trained, planned.step.held["trained"])
    assert computed.peak == pytest.approx(planned.peak, rel=0.15)
    assert computed.operations == pytest.approx(planned.operations, rel=0.15)
    assert [p.requires_grad for expert in experts for p in expert.model.parameters()] == before
    with pytest.raises(ValueError, match="trained is 'lora', which changes experts that are open: give their names"):
        estimate_cost(*experts, "H", trained="lora", **options)
    with pytest.raises(ValueError, match="resolution is 64, but a step is computed, at the expert's own"):
        estimate_cost(*experts, "H", resolution=64, **options)
    with pytest.raises(Unplanned, match="no config is known"):
        estimate_cost("qwen2.5-vl-7b", experts[1], "H", **options)


def test_the_documented_table_is_what_the_planner_says():
    """One row of docs/real.md, made again from the options that stand above its table."""
    lines = REAL.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").replace(" | ", "|") for line in lines if line.startswith(("| layout |", "| H | bridges"))]
    documented = pd.read_csv(StringIO("\n".join(rows)), sep="|").iloc[0]
    estimate = estimate_cost(
        "qwen2.5-vl-7b", "wan2.2-ti2v-5b", "H", batch=8, resolution=512, checkpointing=True, gpus=8
    )
    row = cost_table(estimate, steps=20_000).iloc[0]
    for column in ("bridges", "peak GB", "activations GB", "gathered GB", "GPU hours"):
        assert documented[column] == pytest.approx(row[column], rel=0.02), column
    assert documented["trained M"] == round(estimate.trained / 1e6)
