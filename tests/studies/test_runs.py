"""The table of studies lists every committed result, and reproducing copies what a study has written."""

from __future__ import annotations

import filecmp
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageChops

from bridgework.studies import runs
from bridgework.studies.runs import STUDIES, Study, draw_curves, draw_outcomes, reproduce
from bridgework.studies.settings import RESULTS

BEING_RUN: set[str] = set()  # studies whose first results are not committed yet


def test_every_committed_result_is_written_by_one_study():
    listed = [file for study in STUDIES.values() for file in study.files]
    assert len(listed) == len(set(listed))
    committed = {file.relative_to(RESULTS).as_posix() for file in RESULTS.rglob("*") if file.is_file()}
    assert not {file for file in committed if file not in listed and file.split("/")[0] not in listed}
    lacking = {name: {file for file in study.files if not (RESULTS / file).exists()} for name, study in STUDIES.items()}
    assert {name: files for name, files in lacking.items() if files} == {n: {*STUDIES[n].files} for n in BEING_RUN}


def test_studies_say_what_they_do():
    assert list(STUDIES) == [
        "scenes",
        "half-trained",
        "stability",
        "costs",
        "real",
        "causal",
        "layouts",
        "emoji",
        "verdict",
        "claims",
        "editing",
    ]
    assert all(study.about for study in STUDIES.values())


def test_the_headline_figure_is_drawn_from_the_committed_tables(tmp_path):
    for file in ("gap.csv", "plan.json", "map.csv", "map.json"):
        shutil.copy(RESULTS / file, tmp_path)
    draw_outcomes(tmp_path)
    with Image.open(tmp_path / "plan_outcomes.png") as drawn, Image.open(RESULTS / "plan_outcomes.png") as kept:
        assert drawn.size == kept.size
        difference = ImageChops.difference(drawn.convert("RGB"), kept.convert("RGB"))
    assert np.asarray(difference).mean() < 1


def test_reproducing_copies_files_and_folders(tmp_path, monkeypatch, capsys):
    def write(folder):
        for file in ("table.csv", "samples/00.png", "deep/map.csv"):
            (folder / "a" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "a" / file).write_text(file)

    files = ("table.csv", "samples", "deep/map.csv")
    studies = {"first": Study("writes files", write, "a", files), "second": Study("writes none", print, "b", ("x",))}
    monkeypatch.setattr(runs, "STUDIES", studies)
    results = tmp_path / "results"
    (results / "samples").mkdir(parents=True)
    (results / "samples" / "99.png").write_text("of an earlier run")
    reproduce(["first"], tmp_path / "runs", results)
    compared = filecmp.dircmp(tmp_path / "runs" / "a", results)
    assert not compared.left_only + compared.right_only + compared.diff_files
    assert [path.name for path in (results / "samples").iterdir()] == ["00.png"]
    assert (results / "deep" / "map.csv").read_text() == "deep/map.csv"
    assert capsys.readouterr().out == "first: writes files\n"
    with pytest.raises(FileNotFoundError, match=r"the study second has not written .*x"):
        reproduce((), tmp_path / "runs", results)
    with pytest.raises(ValueError, match="unknown study 'third': expected one of first, second"):
        reproduce(["third"], tmp_path / "runs", results)


def test_the_committed_curves_are_drawn_from_the_committed_table(tmp_path):
    pd.read_parquet(RESULTS / "curves.parquet").to_parquet(tmp_path / "curves.parquet")
    draw_curves(tmp_path)
    with Image.open(tmp_path / "alignment_curves.png") as drawn, Image.open(RESULTS / "alignment_curves.png") as kept:
        assert drawn.size == kept.size
        difference = ImageChops.difference(drawn.convert("RGB"), kept.convert("RGB"))
    assert np.asarray(difference).mean() < 1
