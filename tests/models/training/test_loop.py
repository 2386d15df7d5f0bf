"""The training loop: stopped anywhere and started again, a run ends with the very weights of one that was not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from bridgework.models.training.loop import fit
from bridgework.tests.models.regression import build_network, equal, regression

STEPS = 12


def run(
    folder: Path, stop_at: int | None = None, numbers: list[int] | None = None, **options
) -> tuple[nn.Sequential, list]:
    model = build_network()
    options = {"learning_rate": 0.05, "checkpoint_every": 3} | options
    named = nn.ModuleDict({"layers": model})  # as the blocks of a model are named: "layers.0.weight"
    log = fit(named, regression(model, stop_at, numbers), folder, options.pop("steps", STEPS), **options)
    return model, log


@pytest.mark.parametrize("options", [{}, {"average": 0.8}, {"muon": 0.02}], ids=["plain", "average", "muon"])
@pytest.mark.parametrize("stop_at", [3, 8])
def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path, options, stop_at):
    whole, whole_log = run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_at, **options)
    numbers: list[int] = []
    resumed, log = run(tmp_path / "stopped", numbers=numbers, **options)
    assert numbers == list(range(stop_at // 3 * 3, STEPS))
    assert equal(whole, resumed)
    assert log == whole_log
    assert not equal(whole, build_network())


def test_stopped_before_the_first_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=2)
    numbers: list[int] = []
    resumed, _ = run(tmp_path, numbers=numbers)
    assert numbers == list(range(STEPS))
    assert equal(resumed, run(tmp_path / "whole")[0])


@pytest.mark.parametrize("average", [None, 0.8])
def test_a_finished_run_is_loaded_and_not_repeated(tmp_path, average):
    whole, log = run(tmp_path, average=average)
    numbers: list[int] = []
    again, log_again = run(tmp_path, numbers=numbers, average=average)
    assert not numbers
    assert equal(whole, again)
    assert log == log_again


def test_stopped_between_the_two_renames(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=8)
    os.replace(tmp_path / "state", tmp_path / "state.old")
    (tmp_path / "state.new").mkdir()
    (tmp_path / "state.new" / "step.json").write_text("9")
    numbers: list[int] = []
    resumed, _ = run(tmp_path, numbers=numbers)
    assert numbers[0] == 6
    assert equal(resumed, run(tmp_path / "whole")[0])
    assert {path.name for path in tmp_path.iterdir()} == {"state", "whole"}


def test_stopped_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bridgework.models.training.resuming.write_json", interrupted)
        run(tmp_path)
    numbers: list[int] = []
    resumed, _ = run(tmp_path, numbers=numbers)
    assert numbers[0] == 0
    assert equal(resumed, run(tmp_path / "whole")[0])


def test_an_average_is_the_average(tmp_path):
    """By its recurrence: shadow <- d shadow + (1 - d) weights, with diffusers' warm-up of the decay d."""
    model = build_network()
    shadows = [p.detach().clone() for p in model.parameters()]

    def follow(step: int, weights: nn.Module) -> None:
        decay = min(0.8, step / (9 + step)) if step > 1 else 0.0
        for shadow, weight in zip(shadows, weights.parameters(), strict=True):
            shadow.copy_(decay * shadow + (1 - decay) * weight.detach())

    loss = regression(model)

    def watched(step: int) -> Tensor:
        if step:
            follow(step, model)  # what the step before left behind
        return loss(step)

    fit(model, watched, tmp_path, STEPS, learning_rate=0.05, average=0.8)
    plain, _ = run(tmp_path / "plain")
    follow(STEPS, plain)
    for shadow, averaged, raw in zip(shadows, model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(shadow, averaged)
        assert not torch.equal(averaged, raw)


def test_loss_falls(tmp_path):
    _, log = run(tmp_path, steps=101, checkpoint_every=1000)
    assert [line["step"] for line in log] == list(range(0, 101, 10))
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]


def test_the_log_and_the_step_lie_beside_the_state(tmp_path):
    _, log = run(tmp_path)
    assert json.loads((tmp_path / "state" / "step.json").read_text()) == STEPS
    lines = (tmp_path / "state" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log


def test_a_loss_that_is_not_finite(tmp_path):
    model = build_network()
    fine = regression(model)

    def loss(step: int) -> Tensor:
        return fine(step) * (float("nan") if step == 4 else 1)

    with pytest.raises(FloatingPointError, match=r"loss nan at step 4 of .*: lower the learning rate"):
        fit(model, loss, tmp_path, STEPS, learning_rate=0.05, checkpoint_every=3)
    assert json.loads((tmp_path / "state" / "step.json").read_text()) == 3


def test_a_gradient_that_is_not_finite(tmp_path):
    """The loss is finite, the weights would not be: the newest checkpoint must stay good."""
    model = build_network()
    fine = regression(model)

    def loss(step: int) -> Tensor:
        return fine(step) + ((0 * next(model.parameters()).sum()).sqrt() if step == 5 else 0)

    with pytest.raises(FloatingPointError, match=r"gradient nan at step 5 of .*: lower the learning rate"):
        fit(model, loss, tmp_path, STEPS, learning_rate=0.05, checkpoint_every=3)
    assert json.loads((tmp_path / "state" / "step.json").read_text()) == 3
    assert all(t.isfinite().all() for t in load_file(tmp_path / "state" / "model.safetensors").values())


def test_frozen_parameters_stay(tmp_path):
    model = build_network()
    model[0].requires_grad_(False)
    fit(model, regression(model), tmp_path, 5, learning_rate=0.05)
    assert torch.equal(model[0].weight, build_network()[0].weight)
    assert not torch.equal(model[2].weight, build_network()[2].weight)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_mixed_precision_is_accelerates_and_attention_stays_in_float(tmp_path, monkeypatch, precision, dtype):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    model, kinds = build_network(), []

    def loss(step: int) -> Tensor:
        states = model[0](torch.ones(2, 3, 4))
        attended = functional.scaled_dot_product_attention(states, states, states)
        kinds.append((states.dtype, attended.dtype))
        return attended.float().square().mean()

    fit(model, loss, tmp_path, 1, learning_rate=0.01)
    assert kinds == [(dtype, torch.float32)]


def test_the_averaged_weights_are_validated_and_logged(tmp_path):
    model, validated, logs = build_network(), [], []

    def validate(step: int) -> dict[str, float]:
        validated.append(next(model.parameters()).detach().clone())
        return {"validation_loss": float(step)}

    options = {"learning_rate": 0.05, "average": 0.8, "checkpoint_every": 5}
    log = fit(
        model,
        regression(model),
        tmp_path,
        STEPS,
        validate=validate,
        on_log=lambda log: logs.append(len(log)),
        **options,
    )
    assert [(line["step"], line.get("validation_loss")) for line in log] == [
        (0, None),
        (4, 4),
        (9, 9),
        (10, None),
        (11, 11),
    ]
    assert logs == [1, 2, 3, 4, 5]
    assert torch.equal(validated[-1], model[0].weight)
    unvalidated = build_network()
    fit(unvalidated, regression(unvalidated), tmp_path / "unvalidated", STEPS, **options)
    assert equal(model, unvalidated)


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("bridgework.models.training.loop.is_tensorboard_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"pip install 'bridgework\[tensorboard\]', or train without it"):
        run(tmp_path, tensorboard=True)
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    run(tmp_path, tensorboard=True)
    events = [file for file in (tmp_path / "tensorboard").rglob("events*") if file.stat().st_size > 100]
    assert events
