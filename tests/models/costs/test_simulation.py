"""A step on tensors without data: against closed forms, and against the same step run for real."""

from __future__ import annotations

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bridgework.models.costs.simulation import simulate
from bridgework.models.costs.step_costs import count_flops, held_bytes, peak_bytes

BATCH, WIDTH, OUT = 64, 32, 48


def linear_step(shares=None, frozen=False):
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(WIDTH, OUT, bias=False), nn.ReLU(), nn.Linear(OUT, 1, bias=False))
        model[0].requires_grad_(not frozen)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        return simulate(model, lambda: model(torch.zeros(BATCH, WIDTH)).sum(), [optimizer], shares)


def test_what_is_held_of_each_kind():
    step = linear_step()
    weights = 4 * (WIDTH * OUT + OUT)
    assert step.held["trained"] == step.held["gradients"] == weights
    assert step.held["optimizer"] == 2 * weights + 2 * 4  # two moments, and the number of steps of either matrix
    # The input, what ReLU returned and the sum's one number wait for the backward pass.
    assert step.held["activations"] == 4 * (BATCH * WIDTH + BATCH * OUT + 1)
    assert step.peak == sum(step.at_peak.values()) >= sum(step.held.values()) - step.held["gradients"]


def test_operations():
    first, second = 2 * BATCH * WIDTH * OUT, 2 * BATCH * OUT
    step = linear_step()
    assert (step.forward, step.backward, step.update) == (first + second, first + 2 * second, 0)
    assert linear_step(frozen=True).backward == second  # of its weights; nothing asks for the gradient behind them


def test_frozen_weights_have_no_gradient_and_no_state():
    step = linear_step(frozen=True)
    assert step.held["weights"] == 4 * WIDTH * OUT
    assert step.held["gradients"] == step.held["trained"] == 4 * OUT


def test_what_is_shared_by_devices_counts_in_part():
    whole, part = linear_step(), linear_step({"trained": 0.25, "optimizer": 0.25, "gradients": 0.25})
    assert part.held["trained"] == whole.held["trained"] / 4
    assert part.held["activations"] == whole.held["activations"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equals_what_a_real_step_allocates_and_computes(checkpointing):
    """Attention, convolutions, modulation, checkpointing: to the last byte but a few numbers, as on a real CPU."""

    def build():
        model = SD3Transformer2DModel(
            sample_size=16, patch_size=4, in_channels=3, out_channels=3, num_layers=3, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=8,
            pos_embed_max_size=4, qk_norm="rms_norm",
        ).train()  # fmt: skip
        if checkpointing:
            model.enable_gradient_checkpointing()

        def loss():
            text, pooled = torch.zeros(16, 7, 32), torch.zeros(16, 8)
            image, time = torch.zeros(16, 3, 16, 16), torch.ones(16)
            predicted = model(image, encoder_hidden_states=text, pooled_projections=pooled, timestep=time).sample
            return predicted.square().mean()

        return model, loss, [torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)]

    with FakeTensorMode():
        planned = simulate(*build())
    model, loss, optimizers = build()

    def step():
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers[0].step()
        optimizers[0].zero_grad()

    moved = peak_bytes(step, torch.device("cpu"))
    states = [v for state in optimizers[0].state.values() for v in state.values()]
    measured = held_bytes([*model.parameters(), *model.buffers(), *states]) + moved
    assert planned.peak == pytest.approx(measured, rel=0.01)
    assert planned.forward + planned.backward == count_flops(step).total


def test_nothing_to_train():
    with FakeTensorMode():
        model = nn.Linear(2, 2).requires_grad_(False)
        with pytest.raises(ValueError, match="nothing of the model is trained"):
            simulate(model, lambda: model(torch.zeros(1, 2)).sum(), [])


def test_a_model_with_data_is_refused():
    model = nn.Linear(2, 2)
    with FakeTensorMode(), pytest.raises(ValueError, match="'weight' holds data"):
        simulate(model, lambda: model(torch.zeros(1, 2)).sum(), [])
