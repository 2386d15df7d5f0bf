"""Costs: against closed forms, and a model measured is a model unchanged."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bridgework.models.costs.step_costs import (
    attention_sharing,
    costs,
    count_flops,
    held_bytes,
    peak_bytes,
    step_seconds,
)
from bridgework.models.training.scene_batches import dit_batch
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.probes.plans.bridge_plan import BridgePlan

CPU = torch.device("cpu")
SIZE = 4


def paired(layout: str, start: int, stop: int, blocks: int) -> BridgePlan:
    return BridgePlan(tuple((i, i) for i in range(start, stop)), "image", "middle", {}, blocks, blocks, layout=layout)


@pytest.fixture(scope="module")
def batch():
    return dit_batch(0, 0, size=SIZE)


def test_a_linear_layer_costs_two_operations_a_weight():
    layer, x = nn.Linear(5, 7, bias=False), torch.randn(3, 4, 5)
    forward = count_flops(lambda: layer(x))
    assert forward == (2 * 3 * 4 * 5 * 7, 0)
    assert count_flops(lambda: layer(x).sum().backward()) == (2 * forward.total, 0)  # x needs no gradient
    x.requires_grad_(True)
    assert count_flops(lambda: layer(x).sum().backward()) == (3 * forward.total, 0)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted_on_a_cpu(heads, masked):
    query = torch.randn(2, 4, 10, 16, requires_grad=True)
    key, value = (torch.randn(2, heads, 6, 16, requires_grad=True) for _ in range(2))
    mask = torch.ones(10, 6, dtype=torch.bool).tril() if masked else None

    def attend():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=heads == 2)

    product = 2 * 2 * 4 * 10 * 6 * 16
    with torch.no_grad():
        assert count_flops(attend) == (2 * product, 2 * product)
    both = count_flops(lambda: attend().sum().backward())
    assert both.total == both.attention == (2 + 5) * product  # the backward pass computes the scores again


def test_attention_without_a_kernel_is_counted_too():
    query, key = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 6, 8)
    product = 2 * 2 * 3 * 10 * 6 * 8
    assert count_flops(lambda: (query @ key.mT).softmax(-1) @ key) == (2 * product, 2 * product)


@torch.no_grad()
def test_a_generation_expert_attends_as_often_as_its_tokens_meet(tiny_dit, batch):
    text = tiny_dit.encode(batch["caption"])
    found = count_flops(lambda: tiny_dit.predict(batch["noise"], text, batch["time"]))
    tokens, blocks, width = 16 + 20, 3, 2 * 6
    assert found.attention == blocks * 4 * SIZE * tokens**2 * width
    assert found.attention < found.total / 2


def test_peak_is_what_is_alive_at_once():
    x = torch.randn(1000, 250)  # 1 MB

    def run():
        first = x + 1
        second = first * 2
        del first
        return (second - 1).sum()

    assert 2e6 <= peak_bytes(run, CPU) < 2e6 + 1000
    assert peak_bytes(run, CPU) == peak_bytes(run, CPU)
    assert peak_bytes(lambda: x.sum(), CPU) < 1000


def test_peak_of_a_backward_pass_holds_what_was_kept_for_it():
    layer, x = nn.Linear(500, 500, bias=False), torch.randn(500, 500)  # 1 MB each

    def run():
        layer(x).relu().square().sum().backward()
        layer.weight.grad = None

    with torch.no_grad():
        without = peak_bytes(lambda: layer(x).relu().square().sum(), CPU)
    assert without == pytest.approx(2e6, rel=0.01)
    assert peak_bytes(run, CPU) >= 4e6


def test_storages_count_once():
    x = torch.zeros(10)
    assert held_bytes([x, x[2:], x.view(2, 5), torch.zeros(3)]) == 52


def test_no_memory_of_a_device_that_cannot_be_measured():
    with pytest.raises(ValueError, match="measured on cpu and cuda, not on meta"):
        peak_bytes(lambda: None, torch.device("meta"))


def test_time_is_the_median_after_warming_up():
    naps = iter([0.2, 0.2, 0.01, 0.2, 0.01])
    assert 0.01 <= step_seconds(lambda: time.sleep(next(naps)), CPU, rounds=3) < 0.15
    assert next(naps, None) is None


@pytest.mark.parametrize(
    ("plan", "share"),
    [
        (paired("shared", 0, 8, 8), 1),
        (paired("Y", 0, 4, 8), 0.5),
        (paired("X", 2, 6, 8), 0.5),
        (paired("dense", 0, 28, 28), 1),
        (paired("H", 6, 22, 28), 1 - 0.429),
        (BridgePlan(((0, 0), (1, 1), (1, 2), (1, 3)), "both", "all", {}, 2, 4, layout="double fusion"), 1),
        (BridgePlan(((0, 3), (1, 3)), "image", "last", {}, 2, 4), 0.25),
        (BridgePlan(((1, 0), (1, 2)), "image", "uniform", {}, 2, 4, layout="last"), 0.5),
        (BridgePlan(((1, 0), (1, 2)), "image", "uniform", {}, 2, 4, layout="soft"), 0.5),
    ],
)
def test_attention_sharing_of_every_layout(plan, share):
    assert attention_sharing(plan) == pytest.approx(share, abs=1e-3)


def test_a_row_of_costs(fuse, plan, batch):
    fused = fuse(plan)
    row = costs(fused, batch, rounds=1)
    assert (row["layout"], row["batch_size"], row["device"], row["attention_sharing"]) == ("H", SIZE, "cpu", 1)
    assert row["trainable_parameters"] == sum(p.numel() for p in fused.bridges.parameters())
    assert row["parameters"] == sum(p.numel() for p in fused.parameters())
    assert row["forward_attention_flops"] < row["forward_flops"] < row["step_flops"]
    assert row["step_attention_flops"] > row["forward_attention_flops"]
    held = 4 * row["parameters"] + 8 * row["trainable_parameters"]
    assert row["step_peak_bytes"] > held + 4 * row["trainable_parameters"]  # the gradients
    assert 0 < row["step_seconds"] < 10


def test_fewer_bridges_cost_less(fuse, plan, batch):
    few = BridgePlan(plan.pairs[:1], "image", "alignment", {}, 4, 3)
    less, more = (costs(fuse(bridges), batch, rounds=1) for bridges in (few, plan))
    assert more["trainable_parameters"] == 3 * less["trainable_parameters"]
    for name in ("attention_sharing", "forward_attention_flops", "step_attention_flops", "step_flops"):
        assert less[name] < more[name], name
    assert less["step_peak_bytes"] < more["step_peak_bytes"]


@pytest.mark.parametrize("layout", ["dense", "H", "double fusion"])
def test_both_ways_and_one_way_cost_the_same_experts_and_more(fuse, batch, layout):
    """Towers in lockstep: what both of them run is counted, whichever of the two is running."""
    one, both = (
        costs(fuse(replace(paired(layout, 0, 3, 3), understanding_layers=4, both_ways=both_ways)), batch, rounds=1)
        for both_ways in (False, True)
    )
    assert one["attention_sharing"] == both["attention_sharing"] == 1
    assert one["step_flops"] < both["step_flops"]
    assert one["parameters"] - one["trainable_parameters"] == both["parameters"] - both["trainable_parameters"]


def test_a_unified_model_has_costs_too(tiny_vlm, tiny_dit, batch):
    model = UnifiedModel.from_experts(paired("Y", 0, 2, 4), tiny_vlm, tiny_dit)
    row = costs(model, batch, rounds=1)
    assert (row["layout"], row["attention_sharing"]) == ("Y", 0.5)
    assert row["trainable_parameters"] == row["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < row["forward_attention_flops"] < row["forward_flops"] < row["step_flops"]


def test_what_was_measured_is_unchanged(fuse, plan, batch):
    fused = fuse(plan).eval()
    with torch.no_grad():
        for parameter in fused.bridges.parameters():
            parameter.normal_()
    gradient = torch.ones_like(fused.bridges[0].gate)
    fused.bridges[0].gate.grad = gradient
    before = {name: value.clone() for name, value in fused.state_dict().items()}
    costs(fused, batch, rounds=1)
    assert all(torch.equal(value, before[name]) for name, value in fused.state_dict().items())
    assert fused.bridges[0].gate.grad is gradient
    assert fused.bridges[1].gate.grad is None
    assert not fused.training


def test_what_has_no_costs(fuse, tiny_dit, plan, batch):
    with pytest.raises(TypeError, match="expected a fused or unified model, with a loss and a plan, got DitExpert"):
        costs(tiny_dit, batch)
    fused = fuse(plan)
    with pytest.raises(ValueError, match="rounds is 0: expected a whole number of at least 1"):
        costs(fused, batch, rounds=0)
    with pytest.raises(ValueError, match="nothing of the model is trained"):
        costs(fused.requires_grad_(False), batch)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(fuse, plan, batch):
    fused = fuse(plan)
    broken = {**batch, "noise": torch.full_like(batch["noise"], torch.nan)}
    with pytest.raises(FloatingPointError, match="the loss is nan before any step"):
        costs(fused, broken)
    assert all(torch.isfinite(p).all() for p in fused.bridges.parameters())


def test_the_profiler_writes_nothing(capfd):
    assert peak_bytes(lambda: torch.ones(1000) + 1, CPU) >= 4000
    assert tuple(capfd.readouterr()) == ("", "")
