"""One writer of a folder: the second is refused by name, and a dead one is followed at once."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
import torch
from torch import nn

from bridgework.models.training.loop import fit
from bridgework.probes import folder_locks
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.folder_locks import writing
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.tests.probes.toys import letters, open_toy


@pytest.fixture
def writer(tmp_path):
    """Another process that writes a folder, in which it has left a partial file."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        with writing(tmp_path / "written"):
            (tmp_path / "written" / ".shard.abc.partial").mkdir()
            os.write(tell, b"!")
            signal.pause()
    os.read(told, 1)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def train(folder) -> None:
    model = nn.Linear(2, 1)
    fit(model, lambda step: model(torch.ones(1, 2)).square().mean(), folder, 1, learning_rate=0.1)


DOORS = {
    "a store": lambda folder: extract(open_toy(), letters("a", "b"), store=folder),
    "a map": lambda folder: similarity_map(torch.randn(1, 20, 4), torch.randn(1, 20, 4), "cka", store=folder),
    "a training run": train,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_the_other_writer_is_named(writer, tmp_path, door):
    message = rf"written is written by process {writer} on {socket.gethostname()} since \d{{4}}-.* UTC: wait until"
    with pytest.raises(RuntimeError, match=message):
        door(tmp_path / "written")


@pytest.mark.parametrize("complete", [False, True])
def test_a_dead_writer_is_followed_at_once(tmp_path, complete):
    child = os.fork()
    if not child:
        with writing(tmp_path):
            (tmp_path / ".shard.abc.partial").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shard.abc.partial", ".writing"]
    if complete:
        with writing(tmp_path, complete=True):
            assert not list(tmp_path.iterdir())
    with writing(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".writing"]
    assert not list(tmp_path.iterdir())


def test_one_thread_may_lock_again_and_another_may_not(tmp_path):
    heard: list[str] = []

    def other() -> None:
        try:
            with writing(tmp_path):
                heard.append("let in")
        except RuntimeError as error:
            heard.append(str(error))

    with writing(tmp_path), writing(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"written by process {os.getpid()}" in heard[0]
    with writing(tmp_path):
        pass


def test_who_is_interrupted_while_locking_keeps_no_lock(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder_locks.json, "dumps", interrupted)
        with writing(tmp_path):
            pass
    with writing(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".writing"]


def test_what_is_complete_is_read_while_nobody_may_write(tmp_path, monkeypatch):
    extract(open_toy(), letters("a", "b"), store=tmp_path / "store")

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder_locks.os, "ftruncate", refused)
    assert extract(open_toy(), letters("a", "b"), store=tmp_path / "store")["text"].samples == ("id a", "id b")
