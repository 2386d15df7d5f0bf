"""Several processes that torchrun starts make, byte for byte, the store that one makes."""

from __future__ import annotations

import subprocess
import sys

import torch

from bridgework.__main__ import main
from bridgework.probes.workers.processes import Processes

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bridgework"]
WHAT = ["extract", "scenes-vlm", "scenes-evidence"]
HOW = ["--limit", "26", "--batch-size", "1", "--layers", "embeddings", "3"]  # four shards: two each


def test_two_processes_equal_one(tmp_path):
    done = subprocess.run([*RUN, *WHAT, tmp_path / "two", *HOW], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    main([*WHAT, str(tmp_path / "one"), *HOW])
    two, one = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("two", "one"))
    assert len(one) == 5
    assert two == one


def test_alone_nobody_waits(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with Processes() as alone:
        alone.wait()
    assert (alone.rank, alone.world) == (0, 1)
    assert not torch.distributed.is_initialized()
