"""A run killed at any moment, a checkpoint half written included, ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils._pytree import tree_flatten

from bridgework.models.training import loop, resuming, train_model
from bridgework.models.training.loop import _check_finite, fit
from bridgework.models.training.train_model import train
from bridgework.models.training.training_state import read_state, write_state
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.probes.plans.layouts import lay_out

STEPS = 6


def killed(work: Callable[[], Any]) -> None:
    """Let a child process do the work, which must end by SIGKILL."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, original: Callable[..., Any], before: bool = True) -> Callable[..., Any]:
    """The function, which kills its process at that call, before it or after it."""
    calls = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if before and len(calls) == number:
            die()
        result = original(*args, **options)
        if len(calls) == number:
            die()
        return result

    return call


class Owner(nn.Module):
    """The least that is trained: a matrix for Muon, the rest for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def fit(self, folder: Path) -> list[dict[str, Any]]:
        def loss(step: int) -> torch.Tensor:
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            return (self.layers(x) - x.sum(1, keepdim=True) + 0.1 * torch.randn(16, 1)).square().mean()

        torch.manual_seed(1)
        return fit(self, loss, folder, STEPS, learning_rate=0.05, muon=0.02, average=0.8, checkpoint_every=2)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


MOMENTS = {
    "a batch": (loop, "_check_finite", 7, True),
    "the weights are written": (resuming, "write_state", 5, True),
    "all but the step is written": (resuming, "write_state", 8, False),
    "the step is written": (resuming.json, "dumps", 13, False),
    "the old one is moved away": (resuming.os, "replace", 4, False),
    "the new one is in its place": (resuming.os, "replace", 5, False),
}


@pytest.mark.parametrize(("owner", "name", "call", "before"), MOMENTS.values(), ids=MOMENTS)
def test_killed_and_resumed(tmp_path, monkeypatch, owner, name, call, before):
    whole, log = Owner(), Owner().fit(tmp_path / "whole")
    whole.fit(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call(call, getattr(owner, name), before))
        killed(lambda: Owner().fit(tmp_path / "killed"))
    resumed = Owner()
    assert resumed.fit(tmp_path / "killed") == log
    assert same(resumed, whole)
    assert not same(resumed, Owner())


def test_killed_again_and_again(tmp_path, monkeypatch):
    whole = Owner()
    whole.fit(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_check_finite", at_call(5, _check_finite))
        for _ in range(2):  # steps 0 to 2 with a checkpoint behind 1, then 2 to 4 with one behind 3
            killed(lambda: Owner().fit(tmp_path / "killed"))
    resumed = Owner()
    resumed.fit(tmp_path / "killed")
    assert same(resumed, whole)


LAYOUTS = ("dense", "H", "double fusion", "last", "soft", "shared", "Y", "X")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loses_nothing_when_killed(layout, fuse, tiny_vlm, tiny_dit, tmp_path, monkeypatch):
    def build() -> Any:
        if layout in ("shared", "Y", "X"):
            torch.manual_seed(2)
            return UnifiedModel.from_experts(lay_out(layout, 4, 4), tiny_vlm, tiny_dit)
        plan = lay_out(layout, 4, 3, semantic_tokens=2 if layout == "H" else 0, both_ways=layout == "dense")
        return fuse(replace(plan, rank=3) if layout == "dense" else plan).adapt(
            "lora" if layout == "last" else "bridges"
        )

    options = {"batch_size": 4, "average": 0.5, "validate": 1}
    monkeypatch.setattr(train_model, "CHECKPOINTS", 3)
    monkeypatch.setattr(train_model, "EVERY", 1)
    whole = build()
    log = train(whole, tmp_path / "whole", 3, **options)
    with monkeypatch.context() as patch:
        patch.setattr(resuming.os, "replace", at_call(3, os.replace))
        killed(lambda: train(build(), tmp_path / "killed", 3, **options))
    resumed = build()
    assert train(resumed, tmp_path / "killed", 3, **options) == log
    assert same(resumed.trained(), whole.trained())
    assert not same(resumed.trained(), build().trained())


FILES = ("average.safetensors", "hashes.json", "log.jsonl", "model.safetensors", "optimizers.safetensors",
         "random-0.safetensors", "step.json")  # fmt: skip


def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_noticed(tmp_path):
    Owner().fit(tmp_path)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == list(FILES)
    for name in FILES:
        path = tmp_path / "state" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        with pytest.raises(ValueError, match=r"is damaged: it is not what was written; put back a copy of .*state"):
            Owner().fit(tmp_path)
        path.write_bytes(whole)
    (tmp_path / "state" / "hashes.json").unlink()  # as earlier versions left it
    with pytest.warns(UserWarning, match="before checkpoints held hashes: whether it is whole cannot be checked"):
        Owner().fit(tmp_path)


@pytest.mark.parametrize("call", [3, 7])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, call):
    real, calls = resuming.write_state, []

    def full(path: Path, *args: Any) -> None:
        calls.append(path)
        if len(calls) == call:
            path.write_bytes(b"half")
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(path, *args)

    whole = Owner()
    log = whole.fit(tmp_path / "whole")
    kept = "there is none before it" if call == 3 else "that of step 2 is whole"
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "write_state", full)
        with pytest.raises(OSError, match=rf"the checkpoint of step . in .* cannot be written .*; {kept}: make room"):
            Owner().fit(tmp_path / "full")
    resumed = Owner()
    assert resumed.fit(tmp_path / "full") == log
    assert same(resumed, whole)


def test_frozen_weights_are_not_in_the_checkpoints(fuse, plan, tmp_path):
    fused = fuse(plan).adapt("lora")
    train(fused, tmp_path, 1, batch_size=2)
    with safe_open(tmp_path / "state" / "model.safetensors", "pt") as file:
        names = list(file.keys())
    trained = {name for name, p in fused.trained().named_parameters() if p.requires_grad}
    assert any("lora" in name for name in trained)
    assert trained <= set(names)
    assert set(names) - trained <= {name for name, _ in fused.trained().named_buffers()}


def test_no_file_of_a_run_is_a_pickle_and_old_ones_are_refused_by_name(tmp_path):
    Owner().fit(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl"}
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x02")]
    for old in ("custom_checkpoint_0.pkl", "optimizer.bin", "average/.metadata"):
        (tmp_path / "state" / old).parent.mkdir(exist_ok=True)
        (tmp_path / "state" / old).write_bytes(b"\x80\x02.")
        with pytest.raises(ValueError, match=f"{old} is a pickle of an earlier version, and nothing is unpickled"):
            Owner().fit(tmp_path)
        (tmp_path / "state" / old).unlink()


MEMORY = torch.arange(4.0)
STATES = {
    "numbers": {"a": 1, "b": 0.1, "c": None, "d": True, "e": float("inf")},
    "words, keys and tuples": {2: "x", 1: (1, [2, (3,)])},
    "tensors": {0: {"half": torch.ones(3, dtype=torch.bfloat16), "none": torch.zeros(0), "one": torch.tensor(2.5)}},
    "one memory": [MEMORY, MEMORY[1:], MEMORY.view(2, 2).T],
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_is_read_as_it_was_written(tmp_path, state):
    write_state(tmp_path / "state.safetensors", state)
    found, wanted = tree_flatten(read_state(tmp_path / "state.safetensors")), tree_flatten(state)
    assert found[1] == wanted[1]
    for one, other in zip(found[0], wanted[0], strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype if isinstance(one, torch.Tensor) else one == other


def test_a_state_that_is_no_plain_one_is_refused(tmp_path):
    with pytest.raises(TypeError, match="holds a set, which is neither a tensor nor plain JSON"):
        write_state(tmp_path / "state.safetensors", {"a": {1}})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 1}, "run.json is of another run, with seed 0 instead of 1"),
     ({"steps": 2, "seed": 1}, "with seed 0 instead of 1"), ({"shuffled": True}, "shuffled False instead of True")],
)  # fmt: skip
def test_a_run_made_otherwise_is_refused(fuse, plan, tmp_path, options, message):
    train(fuse(plan), tmp_path, steps=1, batch_size=2)
    with pytest.raises(ValueError, match=message):
        train(fuse(plan), tmp_path, **({"steps": 1, "batch_size": 2} | options))


def test_a_run_that_has_ended_is_made_longer_with_a_word(fuse, plan, tmp_path):
    train(fuse(plan), tmp_path, steps=2, batch_size=2)
    with pytest.warns(UserWarning, match="ended after 2 steps and is made longer, to 3: its learning rate rises again"):
        log = train(model := fuse(plan), tmp_path, steps=3, batch_size=2)
    assert log[-1]["step"] == 2 and model.steps == 3
    assert json.loads((tmp_path / "run.json").read_text())["made_longer_after"] == [2]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*made longer.*")
        assert train(fuse(plan), tmp_path, steps=3, batch_size=2) == log  # it is loaded
    with pytest.raises(ValueError, match="steps 3 instead of 2"):
        train(fuse(plan), tmp_path, steps=2, batch_size=2)


def test_a_run_that_was_stopped_is_not_made_longer(fuse, plan, tmp_path):
    train(fuse(plan), tmp_path, steps=2, batch_size=2)
    (tmp_path / "state" / "step.json").write_text("1")
    with pytest.raises(ValueError, match="steps 2 instead of 3"):
        train(fuse(plan), tmp_path, steps=3, batch_size=2)


def test_another_field_of_the_plan_is_refused(fuse, plan, tmp_path):
    train(fuse(plan), tmp_path, steps=1, batch_size=2)
    with pytest.raises(ValueError, match=r"plan.json is of another run, with stream image instead of both"):
        train(fuse(replace(plan, stream="both")), tmp_path, steps=1, batch_size=2)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json cannot be read: choose another folder"):
        train(fuse(plan), tmp_path, steps=1, batch_size=2)
    assert json.loads((tmp_path / "plan.json").read_text())["stream"] == "image"
