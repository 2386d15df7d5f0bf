"""Workers of a Ray cluster make, bit for bit, the map that one process makes, also where one of them dies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.similarity.ray_maps import _opened, _sent, similarity_map_on_ray
from bridgework.probes.workers import shared_parts
from bridgework.tests.probes.similarity.test_shared_maps import die_once, stack

CODE = """
import sys
from pathlib import Path
import ray
import bridgework.tests.probes.similarity.test_ray_maps as maps

folder = Path(sys.argv[1])
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
x, y = maps.sides(folder)
heat = maps.similarity_map_on_ray(x, [*y, maps.Deadly(folder, y[0])], folder / "map", "mutual_knn", workers=2)
heat.to_csv(folder / "workers.csv")
try:
    maps.similarity_map_on_ray(x, [1j * y[0]], folder / "complex", workers=1)
except TypeError as error:
    print(error, error.__cause__, error.__suppress_context__)
"""


class Deadly:
    """A layer that arms the process which reads it: one of them dies while it saves its second part."""

    def __init__(self, folder: Path, values: np.ndarray) -> None:
        self.folder, self.values = folder, values

    def __reduce__(self) -> Any:
        return arm, (self.folder, self.values)


def arm(folder: Path, values: np.ndarray) -> np.ndarray:
    shared_parts._save = die_once(folder / "died", shared_parts._save)  # type: ignore[assignment]
    return values


def sides(folder: Path) -> tuple[LayerFeatures, list[np.ndarray]]:
    """Features in a store, and layers in memory."""
    values = torch.from_numpy(np.stack(stack(600, (40,) * 4, 1)))
    labels = {"subject": "toy", "task": "understanding", "pass_": "separate", "pooling": "mean", "timesteps": ()}
    names = {"layers": tuple("0123"), "depths": (0.25, 0.5, 0.75, 1.0), "samples": tuple(map(str, range(600)))}
    if not (folder / "x").exists():
        Features({"text": LayerFeatures(values=values, modality="text", **names, **labels)}).save(folder / "x")
    return Features.load(folder / "x")["text"], stack(600, (30, 50), 2)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make test does")
def test_workers_make_the_same_map_and_one_that_dies_is_replaced(tmp_path):
    from bridgework.probes.similarity.scoring import similarity_map

    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True, timeout=300, env=os.environ | quiet
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    x, y = sides(tmp_path)
    similarity_map(x, [*y, y[0]], "mutual_knn").to_csv(tmp_path / "one.csv")
    assert (tmp_path / "workers.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert sorted(path.name for path in (tmp_path / "map").iterdir()) == ["made.json", "scores.safetensors"]
    words = "layer 0 of y must be an array or tensor of real numbers, got complex64"
    assert done.stdout.splitlines()[-1] == f"{words} None True"


def test_what_lies_on_disk_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = sides(Path())
    sent = _sent(x)
    assert "values" not in sent.__dict__
    assert torch.equal(sent.values, x.values)
    assert all(path.is_absolute() for path in sent.__dict__["_reader"].shards)
    for name, values in (("c", np.stack(stack(9, (4, 4), 3))), ("f", np.asfortranarray(np.stack(stack(9, (4, 4), 3))))):
        np.save(f"{name}.npy", values)
        mapped = np.load(f"{name}.npy", mmap_mode="r")
        (reference,) = _sent([mapped])
        assert Path(reference.path).is_absolute()
        np.testing.assert_array_equal(_opened([reference])[0], values)
        assert not hasattr(_sent(mapped[1]), "path")  # a part of a file is sent
    assert _sent(y)[0] is y[0]


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"a layer map on a cluster needs Ray: pip install 'bridgework\[ray\]'"):
        similarity_map_on_ray(*sides(tmp_path), tmp_path / "map", "mutual_knn")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"workers": 0}, "workers is 0: expected a whole number from 1 on"),
        ({"num_cpus": 0.5}, "num_cpus is 0.5: expected"),
        ({"metric": "cak"}, "unknown metric 'cak'"),
        ({"k": 600}, "k must be an integer from 1 to"),
        ({"tolerance": 0.1}, "tolerance is no option of a map on a cluster"),
    ],
)
def test_what_is_wrong_is_said_before_ray_starts(tmp_path, monkeypatch, wrong, words):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TypeError, match="takes two stacks of layers, got generator"):
        similarity_map_on_ray((pair for pair in ()), sides(tmp_path)[1], tmp_path / "map")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        similarity_map_on_ray(*sides(tmp_path), tmp_path / "map", **{"metric": "mutual_knn"} | wrong)
