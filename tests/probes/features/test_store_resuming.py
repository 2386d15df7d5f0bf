"""An extraction that was stopped: the store is whole at any moment, and the same command resumes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bridgework.probes import files
from bridgework.probes.extraction import jobs
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features import shards
from bridgework.probes.features.features import Features
from bridgework.tests.probes.toys import MOMENTS, TEXTS, contents, letters, many, open_toy


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Folders in which processes were killed, by SIGKILL, at each of the moments; and one that was not."""
    folder = tmp_path_factory.mktemp("killed")
    code = "import sys, pathlib, bridgework.tests.probes.toys as toys; toys.kill_everywhere(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(MOMENTS), done.stderr
    extract(open_toy(), many(), batch_size=1, store=folder / "whole")
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_resumes(killed, moment):
    folder = killed / moment
    with pytest.raises(FileNotFoundError, match="has not ended: run its command again, and it resumes"):
        Features.load(folder)
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert 1 <= len(there) <= 5
    time.sleep(0.01)
    extract(open_toy(), many(), batch_size=1, store=folder)
    assert contents(folder) == contents(killed / "whole")
    assert all((folder / name).stat().st_mtime_ns == when for name, when in there.items())


def test_interrupted_and_resumed(toy, tmp_path, monkeypatch):
    whole = extract(toy, many(), batch_size=1, store=tmp_path / "whole")
    real, calls = jobs.PassRunner.run, []

    def interrupt(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(jobs.PassRunner, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(toy, many(), batch_size=1, store=tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["shard-00000.safetensors"]
    monkeypatch.undo()
    extract(toy, many(), batch_size=1, store=tmp_path / "store")
    assert contents(tmp_path / "whole") == contents(tmp_path / "store")
    assert whole["image"].samples == tuple(f"id {text}" for text in many().texts)


FULL = """
import resource, signal, sys
from bridgework.probes.extraction import jobs
from bridgework.probes.extraction.extracting import extract
from bridgework.tests.probes.toys import letters, open_toy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    extract(open_toy(), letters(*"abcdefghij"), batch_size=1, store=sys.argv[1])
except OSError as error:
    print(error)
"""


def test_no_room(tmp_path, toy):
    """The system itself refuses a file of more than a thousand bytes."""
    extract(toy, letters(*"abcdefghij"), batch_size=1, store=tmp_path / "whole")
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "store", "1000"], capture_output=True, text=True)
    assert "cannot be written" in done.stdout, done.stderr
    assert "then run the same command again: it resumes here" in done.stdout
    assert "File too large" in done.stdout
    assert not list((tmp_path / "store").iterdir())
    extract(toy, letters(*"abcdefghij"), batch_size=1, store=tmp_path / "store")
    assert contents(tmp_path / "whole") == contents(tmp_path / "store")


def test_a_full_disk_says_how_far_it_came(toy, tmp_path, monkeypatch):
    real, calls = shards.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise shards.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata)

    monkeypatch.setattr(shards, "save_file", full)
    message = r"shard-00001.safetensors cannot be written \(.*No space left on device.*\); 1 of 2 shards are there"
    with pytest.raises(OSError, match=message):
        extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["shard-00000.safetensors"]


def test_no_room_for_the_index(toy, tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if Path(target).name == "features.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    message = r"features.json cannot be written \(.*No space left.*\); all 2 shards are there and whole: make room"
    with pytest.raises(OSError, match=message):
        extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    assert sorted(path.name[:5] for path in (tmp_path / "store").iterdir()) == ["shard", "shard"]
