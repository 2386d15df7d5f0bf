"""A map that workers share is that of one process bit for bit, by every metric."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from bridgework.probes.metrics import METRICS
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.probes.workers import shared_parts
from bridgework.probes.workers.shared_parts import as_worker
from bridgework.tests.probes.toys import die

SIZES = {"more dims": (600, (40, 50, 60), (30, 70)), "more samples": (2100, (24,) * 5, (16,) * 3)}  # 2 bands; by dims


def stack(samples: int, dims: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Layers with a signal in common."""
    g, signal = np.random.default_rng(seed), np.random.default_rng(9).standard_normal((samples, 8))
    return [(signal @ g.standard_normal((8, d)) + 2 * g.standard_normal((samples, d))).astype("f") for d in dims]


def shared_map(x, y, metric: str, workers: int, store) -> list:
    """The map that each of several workers has."""
    found: list = [None] * workers

    def run(worker: int) -> None:
        with as_worker(worker, workers):
            found[worker] = similarity_map(x, y, metric, store=store)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


@pytest.mark.parametrize(
    ("size", "metric"),
    [("more dims", metric) for metric in METRICS] + [("more samples", m) for m in ("cka", "cka_biased", "cka_units")],
)
def test_workers_make_the_same_map(size, metric, tmp_path):
    samples, x_dims, y_dims = SIZES[size]
    if METRICS[metric].same_dims:
        x_dims, y_dims = (30,) * len(x_dims), (30,) * len(y_dims)
    x, y = stack(samples, x_dims, 1), stack(samples, y_dims, 2)
    one = similarity_map(x, y, metric)
    for heat in shared_map(x, y, metric, 3, tmp_path / "map"):
        assert heat.equals(one)
        assert heat.attrs == one.attrs


def test_layers_without_a_score_are_shared_too(tmp_path):
    x, y = stack(100, (9, 9, 9), 1), stack(100, (9, 9), 2)
    x[1][:], y[0][:, 1:] = 2.0, 0.0
    for metric in ("cka", "mutual_knn", "rsa", "svcca"):
        one = similarity_map(x, y, metric)
        assert one.isna().any(axis=None)
        assert all(heat.equals(one) for heat in shared_map(x, y, metric, 2, tmp_path / metric))


def test_a_store_holds_one_map(tmp_path):
    x, y = stack(50, (5, 6), 1), stack(50, (7,), 2)
    similarity_map(x, y, "cka", store=tmp_path / "map")
    with pytest.raises(ValueError, match=r"a map that is made differently \(metric: there cka, asked for mutual_knn\)"):
        similarity_map(x, y, "mutual_knn", store=tmp_path / "map")
    with pytest.raises(ValueError, match=r"made differently \(values of y: "):
        similarity_map(x, [2 * y[0]], "cka", store=tmp_path / "map")
    with pytest.raises(ValueError, match="leave batches, tolerance or it out"):
        similarity_map([(x, y)], metric="cka", store=tmp_path / "map")
    with pytest.raises(ValueError, match="leave batches, tolerance or it out"):
        similarity_map(x, y, "cka", tolerance=0.1, store=tmp_path / "map")


def die_once(marker, real) -> object:
    """Saves parts, but dies before the second one if no process has died yet."""
    saved: list[str] = []

    def save(path, part) -> None:
        saved.append(path.name)
        if len(saved) == 2:
            try:
                marker.open("x").close()
            except FileExistsError:
                pass
            else:
                die()
        real(path, part)

    return save


RANK = """
import sys
from pathlib import Path
from bridgework.tests.probes.similarity.test_shared_maps import run_as_rank
run_as_rank(Path(sys.argv[1]))
"""


def run_as_rank(folder) -> None:
    """What each process of torchrun does in the test below."""
    shared_parts._save = die_once(folder / "died", shared_parts._save)  # type: ignore[assignment]
    x, y = stack(600, (40, 50, 60), 1), stack(600, (30, 70), 2)
    heat = similarity_map(x, y, "mutual_knn", store=folder / "map")
    heat.to_csv(folder / f"{os.environ['RANK']}.csv")


def test_torchrun_shares_a_map_and_a_rank_that_dies_loses_nothing(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", tmp_path / "rank.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    one = similarity_map(stack(600, (40, 50, 60), 1), stack(600, (30, 70), 2), "mutual_knn")
    one.to_csv(tmp_path / "one.csv")
    assert len({(tmp_path / f"{name}.csv").read_bytes() for name in ("0", "1", "one")}) == 1
    assert sorted(path.name for path in (tmp_path / "map").iterdir()) == ["made.json", "scores.safetensors"]
