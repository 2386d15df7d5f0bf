"""Runs of the editing study: rows say what was run and repeat to the bit, floors differ, other settings are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bridgework.models.editing.editing_model import SOURCES
from bridgework.models.evaluation import edit_scores
from bridgework.models.scenes.edits import EDIT_KINDS
from bridgework.studies.editing import edit_claims, edit_runs, edit_testbed
from bridgework.studies.editing.edit_runs import EditCell, edit_cells, run_edit_cell
from bridgework.studies.editing.edit_testbed import FLOOR, LAYOUTS, MAIN, SEEDS, UNBRIDGED

from .edit_rows import edit_rows

UNREAD = "no instruction is shown to be followed: the loss is not surely less than with others' instructions"


@pytest.fixture
def small(monkeypatch):
    """Shrink the study: one step, one edit of a kind."""
    small = {
        "POOL": {"train": 1, "validation": 1, "test": 1},
        "STEPS": 1,
        "BATCH": 2,
        "DRAWN": 1,
        "RATES": (1e-2,),
        "DROPOUT": 0.0,
    }
    small |= {"SAMPLING": {"steps": 1, "guidance": 1.0}, "TUNING": {"steps": 1, "seed": 100, "source": "both"}}
    for name, value in small.items():
        monkeypatch.setattr(edit_testbed, name, value)
    edit_testbed.edits.cache_clear()
    yield
    edit_testbed.edits.cache_clear()


def test_all_layouts_and_sources_are_run_with_their_floors():
    cells = edit_cells()
    assert len(cells) == len(set(cells)) == len(SEEDS) * (len(LAYOUTS) * len(SOURCES) + len(LAYOUTS) + 1)
    assert len({edit_runs.cell_path(cell, Path()) for cell in cells}) == len(cells)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_rows_say_what_was_run_and_repeat_to_the_bit(small, tmp_path, monkeypatch):
    cell = EditCell("last", "both", 0)
    first = run_edit_cell(cell, tmp_path / "one")
    assert {name: first[name] for name in cell._fields} == cell._asdict()
    assert (first["steps"], first["edits"], first["rate"]) == (1, len(EDIT_KINDS), 1e-2)
    assert math.isfinite(first["loss"])
    assert 290_000 < first["parameters"] - 96 * 97 <= edit_testbed.PARAMETERS
    assert not list((tmp_path / "one" / "training").iterdir())
    again = run_edit_cell(cell, tmp_path / "two")
    timed = {"seconds", "step_seconds"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}
    floor = run_edit_cell(cell._replace(run=FLOOR), tmp_path / "one")
    assert floor["loss"] != first["loss"]
    alone = run_edit_cell(EditCell("", "spatial", 0, UNBRIDGED), tmp_path / "one")
    assert alone["parameters"] == 96 * 97
    with monkeypatch.context() as patch:
        patch.setattr(edit_runs, "train_editor", None)
        assert run_edit_cell(cell, tmp_path / "one") == first  # it is there, and not run again
    rows = edit_claims.gather_edits(tmp_path / "one")
    assert sorted(rows["run"]) == sorted([MAIN, FLOOR, UNBRIDGED])
    edit_claims.write_edit_report(tmp_path / "one")
    assert all((tmp_path / "one" / file).is_file() for file in edit_claims.FILES)
    verdicts = pd.read_parquet(tmp_path / "one" / "verdicts.parquet").set_index("layout")
    assert verdicts.loc["last", "reason"] == "not run yet: semantic, spatial"  # what is there is judged, and no more
    samples = pd.read_parquet(tmp_path / "one" / "samples.parquet")
    assert list(samples["kind"]) == list(EDIT_KINDS) and set(samples["tokens"]) == {"both"}
    edit_runs.cell_path(cell, tmp_path / "one").unlink()
    with pytest.raises(FileNotFoundError, match="no drawn edits of the first seed: run bridgework reproduce editing"):
        edit_claims.gather_samples(tmp_path / "one")
    monkeypatch.setattr(edit_testbed, "STEPS", 2)
    with pytest.raises(FileNotFoundError, match="no run of this configuration: run bridgework reproduce editing"):
        edit_claims.gather_edits(tmp_path / "one")


def test_committed_rows_are_not_run_again(tmp_path, monkeypatch):
    rows = edit_rows(0.3, 0.9).assign(config=edit_runs.config())
    rows.to_parquet(tmp_path / "edits.parquet")
    monkeypatch.setattr(edit_runs, "COMMITTED", tmp_path / "edits.parquet")
    edit_runs.restore(tmp_path)
    kept = {tuple(row[name] for name in EditCell._fields) for row in map(read, (tmp_path / "cells").glob("*.json"))}
    wanted = {tuple(row) for row in rows[list(EditCell._fields)].itertuples(index=False)}
    assert kept == {cell for cell in wanted if cell[2] != 0 or cell[3] != MAIN}  # drawings of these are shown
    monkeypatch.setattr(edit_runs, "train_editor", None)
    cell = EditCell("H", "both", 1)
    (row,) = rows.query("layout == 'H' and source == 'both' and seed == 1 and run == @MAIN").to_dict("records")
    assert edit_runs.run_edit_cell(cell, tmp_path) == row


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_learning_rate_is_that_of_the_lowest_validation_loss(small, tmp_path, monkeypatch):
    monkeypatch.setattr(edit_testbed, "RATES", (1e-3, 1e-2, 1e-1))
    monkeypatch.setattr(edit_runs, "train_editor", lambda cell, folder, rate, steps: rate)
    monkeypatch.setattr(edit_runs, "_loss", lambda rate, part: abs(rate - 1e-2) + (part != "validation"))
    assert edit_runs.tuned_rate("double fusion", tmp_path) == 1e-2
    monkeypatch.setattr(edit_runs, "train_editor", None)
    assert edit_runs.tuned_rate("double fusion", tmp_path) == 1e-2  # not tuned again


def test_protocol_and_code_say_the_same_numbers():
    text = Path(edit_testbed.__file__).with_name("protocol.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 7
    for name, value in rows:
        module = edit_testbed if hasattr(edit_testbed, name.strip(" `")) else edit_scores
        assert float(value) == getattr(module, name.strip(" `"))
    assert edit_claims.CLAIM in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("table", "verdict", "reason"),
    [
        (edit_rows(0.3, 0.9), "holds", "both intervals are above 0"),
        (edit_rows(-0.2, 0.9), "fails", "the gain over semantic tokens is surely below .002, the least that counts"),
        (edit_rows(0.001, 0.9), "undecided", "an interval includes 0: that of the gain over semantic tokens"),
        (edit_rows(0.3, 0.5), "undecided", UNREAD),
        (edit_rows(0.3, 0.9, seeds=2), "undecided", "2 of 3 seeds"),
        (edit_rows(0.3, 0.9)[lambda t: t["source"] != "spatial"], "undecided", "not run yet: spatial"),
    ],
)
def test_verdicts_follow_the_protocol(table, verdict, reason):
    found = edit_claims.edit_verdicts(edit_claims.edit_differences(table))
    assert list(found["layout"]) == [*LAYOUTS, edit_claims.EVERY]
    assert set(found["verdict"]) == {verdict}
    assert set(found["reason"]) == {reason}


def test_less_loss_and_more_score_are_gains():
    table = edit_rows(0.3, 0.9).assign(score=lambda t: t["source"].map({"both": 3.0, "semantic": 1.0, "spatial": 1.5}))
    found = edit_claims.edit_differences(table).query("than == 'semantic'").groupby("measure")["difference"].mean()
    assert found["loss"] == pytest.approx(0.3)
    assert found["score"] == 2
