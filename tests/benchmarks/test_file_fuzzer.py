"""Readers of files return a value or say one sentence: the kept seeds, and some seconds of new damage."""

from __future__ import annotations

import pytest

from bridgework.benchmarks.robustness.file_fuzzer import READERS, SEEDS, Outcome, Reader, fuzz, outcome

KEPT = sorted(SEEDS.glob("*-*"))


@pytest.mark.parametrize("seed", KEPT, ids=[seed.name for seed in KEPT])
def test_what_was_found_once_is_said_or_read(seed):
    reader = READERS[seed.name.rpartition("-")[0].replace("-", " ")]
    assert outcome(reader, seed.read_bytes()).kind != "unhandled"


@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_what_is_right_and_survives_some_damage(name, tmp_path):
    READERS[name].make(tmp_path)
    assert outcome(READERS[name], (tmp_path / READERS[name].file).read_bytes()) == Outcome("value")
    row = fuzz(name, 0.4, seed=1)
    assert row["files"] > 1 and row["refused"] + row["values"] == row["files"], row["found"]


def test_an_error_that_nobody_foresaw_is_counted():
    def fail(folder):
        return {}["missing"]

    assert outcome(Reader("plan.json", READERS["plan"].make, fail), b"{}").kind == "unhandled"
