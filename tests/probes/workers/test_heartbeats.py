"""Ranks that never start, or die, are named within the seconds that were asked for."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from bridgework.models.training.loop import fit
from bridgework.probes.workers import heartbeats
from bridgework.probes.workers.heartbeats import patience, wait_for_all
from bridgework.probes.workers.processes import Processes


def start(rank: int, port: int, work: Callable[[], object]) -> tuple[int, int]:
    """Start one of two ranks, as a launcher other than torchrun does; return its process, and where it says what."""
    heard, say = os.pipe()
    if not (child := os.fork()):
        _as_rank(rank, port, work, say)
    os.close(say)
    return child, heard


def _as_rank(rank: int, port: int, work: Callable[[], object], say: int) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "BRIDGEWORK_PATIENCE": "3", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    heartbeats.BEAT = 0.2
    try:
        work()
        os.write(say, b"ended well")
    except RuntimeError as error:
        os.write(say, str(error).encode())
    finally:
        os._exit(0)


def said(child: int, heard: int) -> str:
    os.waitpid(child, 0)
    with os.fdopen(heard) as file:
        return file.read()


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def meet_and_wait() -> None:
    with Processes() as ranks:
        ranks.wait()
        ranks.wait()


def meet_and_die() -> None:
    with Processes() as ranks:
        ranks.wait()
        os.kill(os.getpid(), signal.SIGKILL)


def meet_and_sleep() -> None:
    with Processes() as ranks:
        ranks.wait()
        time.sleep(5)  # longer than a silent rank is waited for
        ranks.wait()


@pytest.mark.parametrize("work", [meet_and_wait, wait_for_all], ids=["extraction", "training"])
def test_a_rank_that_never_starts(port, work):
    began = time.monotonic()
    text = said(*start(0, port, work))
    assert "has not started" in text and "BRIDGEWORK_PATIENCE to more seconds" in text
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies(port, dies):
    first = start(dies, port, meet_and_die)
    text = said(*start(1 - dies, port, meet_and_wait))
    assert said(*first) == ""
    expected = "rank 1 of 2 has died or hangs: it gave no sign of life for 3 s" if dies else "rank 0, which keeps the"
    assert expected in text


def train_and_die(folder: Path, dies: bool) -> None:
    AcceleratorState._reset_state(True)  # what earlier trainings of the test's process have settled
    model = nn.Linear(2, 1)

    def loss(step: int) -> torch.Tensor:
        if dies and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return model(torch.ones(2, 2)).square().mean()

    fit(model, loss, folder, 4, learning_rate=0.1, checkpoint_every=1)


def test_a_rank_that_dies_in_training(port, tmp_path):
    first = start(1, port, lambda: train_and_die(tmp_path, True))
    text = said(*start(0, port, lambda: train_and_die(tmp_path, False)))
    assert said(*first) == ""
    assert f"a rank of the training in {tmp_path} has ended, and this one cannot go on without it" in text
    assert (tmp_path / "state" / "step.json").read_text() == "2"


def test_a_rank_that_works_for_long_is_waited_for(port):
    first = start(0, port, meet_and_sleep)
    assert said(*start(1, port, meet_and_wait)) == "ended well"
    assert said(*first) == "ended well"


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan", "inf"])
def test_how_long_is_a_number(monkeypatch, given):
    monkeypatch.setenv("BRIDGEWORK_PATIENCE", given)
    with pytest.raises(ValueError, match=f"BRIDGEWORK_PATIENCE is '{given}': expected how many seconds"):
        patience()
