"""Workers of a Ray cluster make, byte for byte, the store that one process makes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.ray_cluster import extract_on_ray
from bridgework.tests.probes.toys import many, open_toy

CODE = """
import sys
from pathlib import Path
import ray
import torch
from bridgework.probes.extraction.ray_cluster import extract_on_ray
from bridgework.tests.probes.toys import many, open_toy

threads = Path(sys.argv[2])

def open_noted():
    from bridgework.probes.extraction import jobs
    write = jobs.write_numbered_shard

    def noted(*args):
        (threads / str(torch.get_num_threads())).touch()
        write(*args)

    jobs.write_numbered_shard = noted
    return open_toy()

ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
seen = extract_on_ray(open_noted, many(), sys.argv[1], workers=2, num_cpus=2, batch_size=1, pooling="last")
print(tuple(seen["image"].values.shape))
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make test does")
def test_workers_make_the_same_bytes(tmp_path):
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    (tmp_path / "threads").mkdir()
    command = [sys.executable, "-c", CODE, tmp_path / "workers", tmp_path / "threads"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | quiet)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("(4, 40, 6)")
    extract(open_toy(), many(), batch_size=1, pooling="last", store=tmp_path / "one")
    workers, one = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("workers", "one"))
    assert len(one) == 6
    assert workers == one
    assert [path.name for path in (tmp_path / "threads").iterdir()] == ["2"]


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"needs Ray: pip install 'bridgework\[ray\]'"):
        extract_on_ray(open_toy, many(), tmp_path / "store")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"num_cpus": 0.5}, {"num_cpus": True}])
def test_a_number_of_workers_or_cpus_is_refused_before_ray_starts(tmp_path, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is .*: expected a whole number from 1 on"):
        extract_on_ray(open_toy, many(), tmp_path / "store", **wrong)
