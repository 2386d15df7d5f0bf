"""The benchmarks of faults in short: a command that is killed twice, flipped bits, and rounds of work."""

from __future__ import annotations

import numpy as np
import pytest

from bridgework.__main__ import main
from bridgework.benchmarks.robustness.flips import Kind, flip
from bridgework.benchmarks.robustness.kills import contents, run_apart, stop
from bridgework.benchmarks.robustness.load import counts, one_round
from bridgework.benchmarks.robustness.small_runs import RUNS, Run
from bridgework.probes.files import write_json
from bridgework.probes.tensor_files import read_sealed, with_seal
from bridgework.studies.quotes.fault_quotes import slope

EXTRACT = Run("extract", "extract scenes-dit scenes-evidence {out}/store --limit 20 --batch-size 1 --timesteps .5")


def test_an_extraction_that_is_killed_or_interrupted_leaves_the_same_bytes(tmp_path):
    (out := tmp_path / "stopped").mkdir()
    ended = run_apart(EXTRACT, tmp_path, out)
    assert ended.status == 0, ended.said
    whole = ended, contents(out)
    assert any(name.endswith("features.json") for name in whole[1])
    rng = np.random.default_rng(0)
    for kind, status in (("SIGKILL in a write", -9), ("SIGINT", 130)):
        row = stop(EXTRACT, kind, tmp_path, whole, rng)
        assert (row["status"], row["equal"]) == (status, True), row
    assert row["said"] == "bridgework: stopped; run the same command again to resume"
    assert row["partial files"] == 0


@pytest.mark.parametrize("name", ["extract", "report"])
def test_the_options_of_a_command_that_is_killed_are_taken(name, tmp_path):
    command = RUNS[name].arguments.format(out=tmp_path, stores=tmp_path).replace("scenes-dit", "no-such-expert")
    with pytest.raises(SystemExit, match="no-such-expert"):
        main(command.split())


def test_a_flip_is_put_back(tmp_path):
    write_json(tmp_path / "made" / "about.json", with_seal({"steps": 600}))
    kind = Kind("about", "made", "about.json", lambda folder: read_sealed(folder / "about.json"))
    for seed in range(20):
        assert flip(kind, tmp_path, np.random.default_rng(seed))["noticed"]
    assert read_sealed(tmp_path / "made" / "about.json") == {"steps": 600}


def test_flips_within_a_pattern_are_of_its_bytes_alone(tmp_path):
    write_json(tmp_path / "made" / "about.json", {"steps": 600})
    kind = Kind("about", "made", "about.json", lambda folder: False, rb"\d")
    places = {flip(kind, tmp_path, np.random.default_rng(seed))["byte"] for seed in range(20)}
    assert places == {(tmp_path / "made" / "about.json").read_bytes().index(b"600") + place for place in range(3)}


def test_work_that_is_done_again_leaves_nothing(tmp_path):
    held = []
    for _ in range(3):
        one_round(1, tmp_path / "work", samples=12)
        held.append(counts(tmp_path))
    for name in ("threads", "open files", "hooks", "temporary files", "tensors"):
        assert held[2][name] <= held[1][name], name


def test_memory_that_is_held_is_counted_as_allocated(tmp_path):
    before = counts(tmp_path)
    held = [np.ones(250_000) for _ in range(20)], [[] for _ in range(5_000)]
    after = counts(tmp_path)
    if np.isnan(after["allocated MB"]):
        pytest.skip("the C library does not say what it has given out")
    assert 39 < after["allocated MB"] - before["allocated MB"] < 50
    assert 4_900 < after["Python objects"] - before["Python objects"] < 5_100
    del held
    assert abs(counts(tmp_path)["allocated MB"] - before["allocated MB"]) < 2


@pytest.mark.parametrize(("growth", "seen"), [(0.0, False), (2.0, True)])
def test_a_slope_is_found(growth, seen):
    rounds = np.arange(60)
    values = 900 + 5.0 * (rounds % 6) + growth * rounds + np.random.default_rng(0).normal(size=60)
    found, low, high = slope(values)
    assert low < growth < high and (low > 0) == seen and abs(found - growth) < 0.2
