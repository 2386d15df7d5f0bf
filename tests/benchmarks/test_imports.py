"""Importing a public name loads no library that the name does not need; the benchmark divides by the right time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bridgework.benchmarks import imports

SIMILARITY = """
import numpy as np
from bridgework.probes import load_stimuli, similarity, similarity_map
x, y = np.random.default_rng(0).standard_normal((2, 30, 4))
assert abs(similarity(x, y)) < 1 and len(load_stimuli("noto", 2)) == 2
"""


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return set(done.stdout.split())


def test_similarity_loads_no_library_that_it_does_not_need():
    loaded = loaded_by(SIMILARITY)
    assert "bridgework.probes.similarity.scoring" in loaded
    barred = {"pandas", "sklearn", "scipy.stats", "transformers", "diffusers", "accelerate", "matplotlib"}
    assert not loaded & barred


@pytest.mark.parametrize(
    ("code", "reached", "barred"),
    [
        ("import bridgework.models", "bridgework.models", {"transformers", "diffusers", "torch"}),
        (
            "from bridgework.models import open_expert",
            "bridgework.models.experts.opening",
            {"diffusers", "peft", "accelerate", "scipy", "pandas", "sklearn", "matplotlib"},
        ),
    ],
)
def test_models_load_no_library_before_it_is_needed(code, reached, barred):
    loaded = loaded_by(code)
    assert reached in loaded
    assert not loaded & barred


def test_times_are_divided_by_that_of_the_unit(monkeypatch):
    seconds = {"a": iter([(3.0, 2.0), (2.0, 4.0)]), "b": iter([(5.0, 9.0), (8.0, 8.0)])}
    monkeypatch.setattr(imports, "seconds_of", lambda statement: next(seconds[statement]))
    table = imports.table({"a": None, "b": 2.0}, "a", rounds=2).set_index("statement")
    assert table["ratio"].tolist() == [1, 2.5]
    assert table["clock_ratio"].tolist() == [1, 4]
    assert table.loc["b", "aim"] == 2


def test_a_statement_is_timed_in_a_fresh_interpreter():
    processor, clock = imports.seconds_of("import time; time.sleep(0.05)")
    assert clock >= 0.05 > processor
    with pytest.raises(subprocess.CalledProcessError):
        imports.seconds_of("import no_such_module")


def test_every_aim_of_the_committed_table_is_met():
    table = imports.pd.read_csv(imports.RESULTS / "imports.csv").set_index("statement")
    assert list(table.index) == list(imports.STATEMENTS)
    aimed = table.dropna(subset="aim")
    assert len(aimed) == 4
    assert (aimed["ratio"] <= aimed["aim"]).all()
