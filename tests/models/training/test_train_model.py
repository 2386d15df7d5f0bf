"""Training: stopped anywhere and started again, a run ends with the very weights of one that was not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from bridgework.models.experts.shipped_architectures import build_dit, build_text_encoder, build_vlm
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.generation.flow import MIN_TIME, velocity_loss
from bridgework.models.scenes.dialogues import IGNORE, answer_loss, tokenize_rows
from bridgework.models.scenes.scene import COLOURS, COUNTS, PLURAL, SHAPES
from bridgework.models.training import batches
from bridgework.models.training.loop import fit
from bridgework.models.training.optimizers import _HIDDEN
from bridgework.models.training.scene_batches import dit_batch, vlm_batch
from bridgework.models.training.train_model import train
from bridgework.probes.stimuli.sources import load_stimuli

STEPS = 12


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def regression(model: nn.Module, stop_at: int | None = None, seen: list[int] | None = None) -> Callable[[int], Tensor]:
    """Batch `step` of a toy regression; interrupted when it is asked for batch `stop_at`."""

    def loss(step: int) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        if seen is not None:
            seen.append(step)
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return loss


def run(
    folder: Path, stop_at: int | None = None, seen: list[int] | None = None, **options
) -> tuple[nn.Sequential, list]:
    model = build()
    options = {"learning_rate": 0.05, "checkpoint_every": 3} | options
    named = nn.ModuleDict({"layers": model})  # as the blocks of a model are named: "layers.0.weight"
    log = fit(named, regression(model, stop_at, seen), folder, options.pop("steps", STEPS), **options)
    return model, log


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"average": 0.8}, {"muon": 0.02}], ids=["plain", "average", "muon"])
@pytest.mark.parametrize("stop_at", [3, 8])
def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path, options, stop_at):
    whole, whole_log = run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_at, **options)
    seen: list[int] = []
    resumed, log = run(tmp_path / "stopped", seen=seen, **options)
    assert seen == list(range(stop_at // 3 * 3, STEPS))
    assert equal(whole, resumed)
    assert log == whole_log
    assert not equal(whole, build())


def test_stopped_before_the_first_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=2)
    seen: list[int] = []
    resumed, _ = run(tmp_path, seen=seen)
    assert seen == list(range(STEPS))
    assert equal(resumed, run(tmp_path / "whole")[0])


@pytest.mark.parametrize("average", [None, 0.8])
def test_a_finished_run_is_loaded_and_not_repeated(tmp_path, average):
    whole, log = run(tmp_path, average=average)
    seen: list[int] = []
    again, log_again = run(tmp_path, seen=seen, average=average)
    assert not seen
    assert equal(whole, again)
    assert log == log_again


def test_stopped_between_the_two_renames(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=8)
    os.replace(tmp_path / "state", tmp_path / "state.old")
    (tmp_path / "state.new").mkdir()
    (tmp_path / "state.new" / "step.json").write_text("9")
    seen: list[int] = []
    resumed, _ = run(tmp_path, seen=seen)
    assert seen[0] == 6
    assert equal(resumed, run(tmp_path / "whole")[0])
    assert {path.name for path in tmp_path.iterdir()} == {"state", "whole"}


def test_stopped_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bridgework.models.training.resuming.json.dumps", interrupted)
        run(tmp_path)
    seen: list[int] = []
    resumed, _ = run(tmp_path, seen=seen)
    assert seen[0] == 0
    assert equal(resumed, run(tmp_path / "whole")[0])


def test_an_average_is_the_average(tmp_path):
    """By its recurrence: shadow <- d shadow + (1 - d) weights, with diffusers' warm-up of the decay d."""
    model = build()
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
    model = build()
    fine = regression(model)

    def loss(step: int) -> Tensor:
        return fine(step) * (float("nan") if step == 4 else 1)

    with pytest.raises(FloatingPointError, match=r"loss nan at step 4 of .*: lower the learning rate"):
        fit(model, loss, tmp_path, STEPS, learning_rate=0.05, checkpoint_every=3)
    assert json.loads((tmp_path / "state" / "step.json").read_text()) == 3


def test_frozen_parameters_stay(tmp_path):
    model = build()
    model[0].requires_grad_(False)
    fit(model, regression(model), tmp_path, 5, learning_rate=0.05)
    assert torch.equal(model[0].weight, build()[0].weight)
    assert not torch.equal(model[2].weight, build()[2].weight)


def test_muon_trains_the_matrices_of_blocks_and_adamw_the_rest(tmp_path):
    """Muon moves a matrix equally far in every direction, by an orthogonal one; AdamW every number equally far."""
    model = build()
    fit(nn.ModuleDict({"layers": model}), regression(model), tmp_path, 1, learning_rate=0.01, muon=0.05)
    after, before = model.state_dict(), build().state_dict()
    moved = torch.linalg.svdvals(after["0.weight"] - before["0.weight"] * (1 - 0.05 * 0.01))  # less the decay
    assert moved.shape == (4,)
    assert moved.min() > 0.5 * moved.max() > 0
    bias = (after["0.bias"] - before["0.bias"] * (1 - 0.01 * 0.01)).abs()
    torch.testing.assert_close(bias, torch.full((8,), 0.01), rtol=1e-3, atol=0)


def test_muon_leaves_embeddings_modulations_and_both_ends_of_a_model_to_adamw(tokenizer):
    experts = nn.ModuleList(
        [
            build_dit(),
            build_text_encoder(tokenizer),
            build_vlm(tokenizer),
        ]
    )
    names = {name for name, p in experts.named_parameters() if p.ndim == 2}
    hidden = {name for name in names if _HIDDEN.search(name)}
    ends = ("embed", "shared", "proj_out", "norm", "relative", "projector", "lm_head")
    assert hidden == {name for name in names if not any(end in name for end in ends)}
    assert {name.split(".")[0] for name in hidden} == {"0", "1", "2"}


@pytest.mark.parametrize(("precision", "seen"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_mixed_precision_is_accelerates_and_attention_stays_in_float(tmp_path, monkeypatch, precision, seen):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    model, kinds = build(), []

    def loss(step: int) -> Tensor:
        states = model[0](torch.ones(2, 3, 4))
        attended = functional.scaled_dot_product_attention(states, states, states)
        kinds.append((states.dtype, attended.dtype))
        return attended.float().square().mean()

    fit(model, loss, tmp_path, 1, learning_rate=0.01)
    assert kinds == [(seen, torch.float32)]


# ---- bridges


@pytest.fixture
def captions_given(monkeypatch) -> list[list[str]]:
    given = []
    condition = FusedModel.condition

    def spy(self, captions):
        given.append(list(captions))
        return condition(self, captions)

    monkeypatch.setattr(FusedModel, "condition", spy)
    return given


def test_bridges_are_trained_saved_and_loaded(fuse, plan, tmp_path, monkeypatch):
    fused = fuse(plan)
    before = {name: tensor.clone() for name, tensor in fused.state_dict().items()}
    log = train(fused, tmp_path, steps=3, batch_size=4)
    assert [line["step"] for line in log] == [0, 2]
    after = fused.state_dict()
    for bridge in range(3):
        assert not torch.equal(after[f"bridges.{bridge}.gate"], before[f"bridges.{bridge}.gate"])
    assert not [n for n in before if not n.startswith("bridges") and not torch.equal(before[n], after[n])]
    assert not fused.training
    saved = load_file(tmp_path / "bridges.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in saved.items())

    def must_not_run(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(batches, "dit_batch", must_not_run)
    again = fuse(plan)
    assert train(again, tmp_path, steps=3, batch_size=4) == log
    assert again.steps == 3
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in after.items())


def test_shuffled_captions_are_another_images(fuse, plan, tmp_path, captions_given):
    train(fuse(plan), tmp_path / "plain", steps=1, batch_size=6)
    train(fuse(plan), tmp_path / "shuffled", steps=1, batch_size=6, shuffled=True)
    plain, shuffled = captions_given
    assert shuffled == plain[1:] + plain[:1] != plain
    assert plain == dit_batch(0, 0, size=6)["caption"]


def test_seeds_draw_different_batches(fuse, plan, tmp_path, captions_given):
    for seed in (0, 1, 0):
        train(fuse(plan), tmp_path / f"{len(captions_given)}", steps=1, batch_size=4, seed=seed)
    assert captions_given[0] == captions_given[2] != captions_given[1]


def test_another_plan_in_the_same_folder_is_refused(fuse, plan, tmp_path):
    """As many bridges elsewhere would load without a word."""
    train(fuse(plan), tmp_path, steps=1, batch_size=2)
    with pytest.raises(ValueError, match=r"plan.json is of another run, with pairs .*choose another folder"):
        train(fuse(replace(plan, pairs=((0, 0), (1, 1), (2, 2)))), tmp_path, steps=1, batch_size=2)


# ---- batches


def test_batches_are_a_function_of_seed_and_step(tokenizer):
    emoji = load_stimuli("noto", limit=20)
    for make in (
        lambda step, seed: dit_batch(step, seed, emoji, size=6),
        lambda step, seed: vlm_batch(step, seed, emoji, tokenizer, size=6),
    ):
        first, again, later, other = make(3, 0), make(3, 0), make(4, 0), make(3, 1)
        assert set(first) == set(again)
        for name, value in first.items():
            same = [torch.equal(value, batch[name]) if isinstance(value, Tensor) and value.shape == batch[name].shape
                    else value is batch[name] or (isinstance(value, list) and value == batch[name])
                    for batch in (again, later, other)]  # fmt: skip
            assert same[0], name
            if name in ("noise", "time", "image", "pixel_values", "input_ids"):
                assert not same[1], name
                assert not same[2], name


def test_labels_are_on_the_answers_alone(tokenizer):
    rows = tokenize_rows(
        tokenizer, [[("is there a ring ?", "no")], [("how many red crosses ?", "four"), ("is there a cross ?", "yes")]]
    )
    told = (["no", "</s>"], ["four", "yes", "</s>"])
    texts = ("<s> is there a ring ? no </s>", "<s> how many red crosses ? four is there a cross ? yes </s>")
    for row, (answers, text) in enumerate(zip(told, texts, strict=True)):
        ids, labels, mask = (rows[name][row] for name in ("input_ids", "labels", "attention_mask"))
        assert tokenizer.convert_ids_to_tokens(labels[labels != IGNORE].tolist()) == answers
        assert torch.equal(ids[labels != IGNORE], labels[labels != IGNORE])
        assert tokenizer.convert_ids_to_tokens(ids[mask == 1].tolist()) == text.split()
        assert (ids[mask == 0] == 0).all()


def test_the_loss_of_answers_by_hand():
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE, IGNORE, 3, 1]])
    expected = -(logits[0, 1].log_softmax(-1)[3] + logits[0, 2].log_softmax(-1)[1]) / 2
    torch.testing.assert_close(answer_loss(logits, labels), expected)


def test_the_velocity_loss_is_the_velocitys():
    """With z = t noise + (1 - t) image, the velocity dz/dt = noise - image is (z - image) / t."""
    image, guess, noise = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([0.3, 0.9])
    t = time[:, None, None, None]
    noisy = t * noise + (1 - t) * image
    torch.testing.assert_close((noisy - image) / t, noise - image)
    expected = ((noisy - guess) / t - (noise - image)).square().mean()
    torch.testing.assert_close(velocity_loss(guess, image, time), expected)
    early = velocity_loss(guess, image, torch.tensor([1e-6, 1e-6]))
    torch.testing.assert_close(early, velocity_loss(guess, image, torch.full((2,), MIN_TIME)))


def test_every_scene_word_is_one_token(tokenizer):
    words = [*SHAPES, *PLURAL.values(), *COLOURS, *COUNTS, "left", "above", "yes", "no"]
    for word in words:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        assert tokenizer.convert_ids_to_tokens(ids) == [word]


# ---- what is logged, and what stops a run


def test_the_averaged_weights_are_validated_and_logged(tmp_path):
    model, seen, logs = build(), [], []

    def validate(step: int) -> dict[str, float]:
        seen.append(next(model.parameters()).detach().clone())
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
    assert torch.equal(seen[-1], model[0].weight)
    unseen = build()
    fit(unseen, regression(unseen), tmp_path / "unseen", STEPS, **options)
    assert equal(model, unseen)


def test_a_gradient_that_is_not_finite(tmp_path):
    """The loss is finite, the weights would not be: the newest checkpoint must stay good."""
    model = build()
    fine = regression(model)

    def loss(step: int) -> Tensor:
        return fine(step) + ((0 * next(model.parameters()).sum()).sqrt() if step == 5 else 0)

    with pytest.raises(FloatingPointError, match=r"gradient nan at step 5 of .*: lower the learning rate"):
        fit(model, loss, tmp_path, STEPS, learning_rate=0.05, checkpoint_every=3)
    assert json.loads((tmp_path / "state" / "step.json").read_text()) == 3
    assert all(t.isfinite().all() for t in load_file(tmp_path / "state" / "model.safetensors").values())


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("bridgework.models.training.loop.is_tensorboard_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"pip install 'bridgework\[tensorboard\]', or train without it"):
        run(tmp_path, tensorboard=True)
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    run(tmp_path, tensorboard=True)
    events = [file for file in (tmp_path / "tensorboard").rglob("events*") if file.stat().st_size > 100]
    assert events


def test_data_must_be_stimuli(fuse, plan, tmp_path):
    with pytest.raises(TypeError, match="data are a list: open images with their captions by load_stimuli"):
        train(fuse(plan), tmp_path, steps=1, data=[1, 2])
