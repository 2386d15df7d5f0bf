"""The benchmark for a card runs on a CPU at tiny sizes; no part that fails, hangs or dies takes another one along."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest

from bridgework.benchmarks.gpu import runner, wheels
from bridgework.benchmarks.gpu.rows import Row, append, begin, read
from bridgework.benchmarks.gpu.sizes import SHARES


def must_not_end(code: int) -> None:
    raise AssertionError(f"a part did not end well: {code}")


@pytest.fixture
def path(tmp_path):
    begin(tmp_path / "gpu.csv")
    return tmp_path / "gpu.csv"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of models without training
def test_all_parts_run_at_tiny_sizes(path):
    runner.work(list(SHARES), "tiny", "cpu", path, time.monotonic() + 3600, must_not_end)
    rows = read(path)
    assert [row["part"] for row in rows if row["quantity"] == runner.TOOK] == list(SHARES)
    assert all(math.isfinite(float(row["value"])) for row in rows)
    right = [row for row in rows if "difference" in row["quantity"] or "halved" in row["quantity"]]
    assert len(right) >= 12 and {row["met"] for row in right} == {"True"}
    found = {row["quantity"]: float(row["value"]) for row in rows}
    assert found["FSDP2, largest gradient"] > 0 and found["out of memory, batches halved"] == 1
    assert found["larger generator, rows a second"] > 0 and found["larger reader, loss at the start"] > 0
    assert {row["card"] for row in rows} and all("torch" in row["versions"] for row in rows)


@pytest.fixture
def measures(monkeypatch):
    """Functions that stand in for the parts, by name."""
    found = {}
    monkeypatch.setattr(runner, "import_module", lambda name, package: SimpleNamespace(measure=found[name[1:]]))
    return found


def test_a_part_that_fails_or_does_not_end_is_one_row_more(path, measures):
    stopped, codes = threading.Event(), []

    def fails(setting):
        yield Row("first", 1.0, at_most=2.0)
        raise ValueError("no such thing\nat all")

    def hangs(setting):
        yield Row("second", 3.0, at_most=2.0)
        assert stopped.wait(60)

    def ends(code):
        codes.append(code)
        stopped.set()

    def measures_nothing(setting):
        yield Row("third", math.nan, at_least=1.0)

    measures |= {
        "maps": fails,
        "extraction": hangs,
        "memory": measures_nothing,
    }
    runner.work(["maps"], "tiny", "cpu", path, time.monotonic() + 60, ends)
    stopped.clear()
    runner.work(["extraction"], "tiny", "cpu", path, time.monotonic() + 2, ends)
    runner.work(["memory"], "tiny", "cpu", path, time.monotonic() + 60, ends)
    said = [(row["part"], row["quantity"], row["met"], row["note"]) for row in read(path)]
    assert said[:4] == [
        ("maps", "first", "True", ""),
        ("maps", runner.FAILED, "", "ValueError: no such thing"),
        ("extraction", "second", "False", ""),
        ("extraction", runner.OVER, "", "it had 2 s, and was stopped"),
    ]
    assert ("memory", "third", "False", "") in said and said[-1][:2] == ("memory", runner.TOOK)
    assert codes == [runner.CLOSED, runner.CLOSED]


def test_processes_that_die_or_fail_are_followed_by_others(path, monkeypatch):
    asked, outcomes = [], iter(["dies", "fails", "hangs", "ends"])

    def start(command, timeout):
        parts = command[command.index("--parts") + 1 :]
        asked.append(parts)
        outcome = next(outcomes)
        if outcome == "fails":
            append(path, parts[0], Row(runner.FAILED, None), "", 0.0)
        if outcome == "ends":
            for part in parts:
                append(path, part, Row(runner.TOOK, 1.0), "", 0.0)
        if outcome == "hangs":
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(returncode={"dies": -9, "fails": runner.CLOSED, "ends": 0}[outcome])

    monkeypatch.setattr(runner.subprocess, "run", start)
    runner.run(list(SHARES), "tiny", "cpu", path, 60)
    assert asked == [list(SHARES)[number:] for number in range(4)]
    closed = [(row["part"], row["quantity"], row["note"]) for row in read(path)]
    assert closed[0] == ("maps", runner.FAILED, "its process ended with exit code -9")
    assert closed[2] == ("memory", runner.FAILED, "its process was killed, for it did not end")
    assert [part for part, _, _ in closed] == list(SHARES)


def test_the_command_stops_a_part_and_says_what_it_did_not_begin(tmp_path):
    results = tmp_path / "results" / "gpu.csv"
    command = [sys.executable, "-m", "bridgework.benchmarks.gpu", "--size", "tiny", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--seconds", "0.5", "--parts", "maps", "memory", "--results", results],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert [(row["part"], row["quantity"]) for row in read(results)] == [
        ("maps", runner.OVER),
        ("memory", runner.NOT_BEGUN),
    ]


def build_wheel(folder, name, version):
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file


def test_wheels_that_are_missing_or_newer_are_installed_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    folder, target = tmp_path / "wheels", tmp_path / "target"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no wheels: fetch them by pip download"):
        wheels.install(folder, target)
    build_wheel(folder, "torch", "1.0")  # older than what is installed
    wanted = build_wheel(folder, "bridgework_test_wheel", "2.0")
    assert wheels.install(folder, target) == [wanted.name]
    assert sorted(file.name for file in target.glob("*.py")) == ["bridgework_test_wheel.py"]
    assert sys.path[0] == str(target) and os.environ["PYTHONPATH"] == f"{target}{os.pathsep}before"
    assert wheels.install(folder, target) == []
    wanted.write_bytes(b"no wheel")
    sys.path.pop(0)
    with pytest.raises(RuntimeError, match=f"pip cannot install {wanted.name}: "):
        wheels.install(folder, target)


def test_what_is_missing_or_too_old_is_named(monkeypatch):
    assert wheels.lacking() == []
    monkeypatch.setattr(wheels, "NEEDED", {"torch": "99", "bridgework-no-such-thing": "1", "pandas": "1"})
    assert wheels.lacking() == ["torch>=99", "bridgework-no-such-thing>=1"]
