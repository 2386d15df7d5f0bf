"""Two processes, on CPUs through gloo, train what one does: with the batch dealt out, and with the weights sharded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bridgework.models.training.batches import batch_source, process_share
from bridgework.models.training.scene_batches import dit_batch
from bridgework.tests.models import processes

SCRIPT = Path(processes.__file__)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder of what two processes train, started as a user starts them. They use the machine's own sockets."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*command, SCRIPT, folder], capture_output=True, text=True, env=environment, timeout=300)
    assert not done.returncode, done.stderr[-3000:]
    return folder


def test_two_processes_reach_the_weights_of_one_and_resume(two, tmp_path):
    processes.shared(tmp_path, process=0, processes=1)
    alone, both = (load_file(folder / "final.safetensors") for folder in (tmp_path, two / "shared"))
    assert alone.keys() == both.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(both[name], tensor, rtol=0, atol=1e-5)


def test_sharded_weights_are_trained_resumed_and_saved_whole(two):
    first, again = (load_file(two / "sharded" / f"run-{number}.safetensors") for number in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert first["bridges.0.query.weight"].shape == (16, 12)


@pytest.mark.parametrize("asked", [False, True], ids=["drawing", "questions as well"])
def test_the_shares_make_up_the_batch(fuse, plan, tokenizer, asked):
    """The mean of the processes' gradients is the batch's, each row in one share."""
    fused = fuse(plan).train()
    batch = batch_source(fused.size, None, 0, 8, False, tokenizer=tokenizer if asked else None)(0)
    shares = [process_share(batch, process, 2) for process in range(2)]
    parameters = list(fused.bridges.parameters())

    def gradient(rows: dict) -> torch.Tensor:
        grads = torch.autograd.grad(fused.loss(rows), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads])

    torch.testing.assert_close((gradient(shares[0]) + gradient(shares[1])) / 2, gradient(batch), rtol=1e-4, atol=1e-5)
    if asked:
        ids = [row for share in shares for row in share["questions"]["input_ids"]]
        assert sorted(map(torch.Tensor.tolist, ids)) == sorted(batch["questions"]["input_ids"].tolist())


def test_dialogues_keep_their_images_when_dealt(tokenizer):
    batch = batch_source((3, 32, 32), None, 3, 64, False, tokenizer=tokenizer)(0)
    whole, token = batch["questions"], batch["image_token"]
    number = iter(range(len(whole["pixel_values"])))
    image_of = {tuple(ids.tolist()): next(number) for ids in whole["input_ids"] if (ids == token).any()}
    images = 0
    for process in range(4):
        mine = process_share(batch, process, 4)["questions"]
        rows = [tuple(ids.tolist()) for ids in mine["input_ids"] if (ids == token).any()]
        assert len(rows) == len(mine.get("pixel_values", ()))
        for row, pixels in zip(rows, mine.get("pixel_values", ()), strict=True):
            assert torch.equal(pixels, whole["pixel_values"][image_of[row]])
        images += len(rows)
    assert images == len(whole["pixel_values"]) > 4


def test_a_batch_that_cannot_be_dealt_out():
    batch = dit_batch(0, 0, size=6)
    assert process_share(batch, 0, 1) is batch
    with pytest.raises(ValueError, match="6 rows cannot be dealt evenly to 4 processes: choose a batch size"):
        process_share(batch, 0, 4)
