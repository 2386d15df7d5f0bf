"""From a model folder and a CSV of one's own to a figure of one column: one command, whose script makes it again."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from contextlib import chdir

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bridgework.__main__ import main
from bridgework.models.evaluation.reporting import open_model
from bridgework.models.experts.opening import CHECKPOINTS
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.pair_report import write_report
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.report_options import ReportOptions
from bridgework.tests.models.tiny_folders import write
from bridgework.tests.probes.toys import TEXTS, Toy, letters, open_toy
from bridgework.tests.test_readme import blocks
from bridgework.tests.test_style import ROOT

COUNT = 48
COMMANDS = blocks(ROOT / "docs" / "report.md", "")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two model folders, and a table of images with captions beside a folder of the images, as docs/report.md has."""
    folder = tmp_path_factory.mktemp("own") / "my"
    write("LlavaForConditionalGeneration", folder / "vlm")
    shutil.copytree(CHECKPOINTS / "scenes-dit", folder / "dit")
    g = np.random.default_rng(0)
    (folder / "images").mkdir()
    rows = []
    for number in range(COUNT):
        Image.fromarray(g.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / "images" / f"{number}.png")
        colours = g.choice(["red", "blue", "green"], 2)
        rows.append({"file": f"{number}.png", "caption": f"{number} a {colours[0]} circle and a {colours[1]} ring"})
    pd.DataFrame(rows).to_csv(folder / "captions.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def report(own):
    """The folder that the documented commands wrote, without those that fetch and install (tests/test_package.py)."""
    clone, install, *commands = COMMANDS[0].splitlines()
    assert clone.startswith("git clone ") and install == "pip install ./bridgework" and len(commands) <= 2
    with chdir(own.parent):
        for command in commands:
            main(shlex.split(command)[1:])
    return own.parent / "report"


def test_every_figure_fits_one_column_and_has_its_numbers_and_its_record(report):
    names = {path.stem for path in (report / "figures").iterdir()}
    curves = {"curve_dit", "curve_vlm", "curve_dit_and_vlm"}
    assert curves | {"layer_map", "plan_early", "companions"} <= names
    for name in names:
        pdf = (report / "figures" / f"{name}.pdf").read_bytes()
        found = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
        assert found is not None
        width = float(found[1])
        assert width / 72 <= 3.26, name
        assert b"/Type3" not in pdf and b"/FontFile2" in pdf
        assert {".pdf", ".svg", ".png", ".csv", ".json", ".tex"} == {
            path.suffix for path in (report / "figures").iterdir() if path.stem == name
        }
        assert json.loads((report / "figures" / f"{name}.json").read_text())["page"]["venue"] == "cvpr"


def test_the_page_has_the_null_the_plans_and_the_companions(report):
    page = (report / "index.html").read_text()
    for words in (
        "p of the best pair",
        "bridges, early",
        "No rule that reads a map is shown to choose better",
        "48 stimuli of",
        "exact for bundled scenes alone, and are not measured on captions",
    ):
        assert words in page
    for table in ("scores-by-samples", "ceiling-of-halves", "effective-rank", "spatial-similarity", "plans"):
        assert len(pd.read_csv(report / f"{table}.csv"))
    patches = pd.read_csv(report / "spatial-similarity.csv")
    assert set(patches["side"]) == {"understanding", "generation"} and set(patches["rows"]) == {4, 8}
    plan = BridgePlan.load(report / "plan.json")
    assert (plan.rule, len(plan.pairs)) == ("early", 4)


def test_the_script_makes_the_same_map_from_the_same_features(report, monkeypatch, capsys):
    monkeypatch.chdir(report)
    before = {path: path.stat().st_mtime_ns for path in (report / "features").rglob("*") if path.is_file()}
    made = runpy.run_path("report.py")
    assert {path: path.stat().st_mtime_ns for path in (report / "features").rglob("*") if path.is_file()} == before
    held = pd.read_csv(report / "layer-map.csv").set_index("understanding layer").to_numpy(float)
    assert np.allclose(made["heat"].to_numpy(), held)
    assert made["plan"].pairs == BridgePlan.load(report / "plan.json").pairs
    assert (report / "again" / "layer_map.pdf").is_file() and "rule early" in capsys.readouterr().out


def test_what_does_not_fit_is_said_before_anything_is_extracted(own, tmp_path):
    stimuli = load_stimuli(own / "captions.csv", root=own / "images")
    blind = Toy(open_toy().model, modalities=("image",))
    with pytest.raises(ValueError, match="the understanding expert 'toy' reads no text: give the expert that reads"):
        write_report(blind, "scenes-dit", stimuli, tmp_path / "out")
    with pytest.raises(ValueError, match="unknown venue"):
        write_report(open_toy(), "scenes-dit", stimuli, tmp_path / "out", ReportOptions(venue="nature"))
    assert not (tmp_path / "out").exists()


def test_the_plan_is_trained_on_the_models_and_data_of_the_report(own, report):
    plan = BridgePlan.load(report / "plan.json")
    assert [expert["opened"] for expert in plan.experts] == [str(own / "vlm"), str(own / "dit")]
    (command,) = COMMANDS[1].splitlines()
    columns = ["--image-column", "file", "--text-column", "caption"]
    with chdir(own.parent):
        main([*shlex.split(command)[1:], *columns, "--steps", "1", "--batch-size", "2"])
    recipe = json.loads((own.parent / "runs" / "mine" / "recipe.json").read_text())
    assert (recipe["understanding"], recipe["generation"]) == (str(own / "vlm"), str(own / "dit"))
    assert open_model(own.parent / "runs" / "mine").experts[0].name == "vlm"


def test_scenes_have_two_more_controls_of_the_same_scenes(tmp_path):
    options = ReportOptions(timesteps=(0.5,), k=5, draws=10, twin=False)
    page = write_report("scenes-vlm", "scenes-dit", scene_stimuli("evidence", 48), tmp_path / "out", options)
    for name in ("controls-scenes-vlm", "controls-scenes-dit", "controls-scenes-dit-and-scenes-vlm"):
        curves = pd.read_csv(page.parent / f"{name}.csv")
        assert set(curves["control"]) == {"none", "words scrambled", "an object removed"}
        assert curves["samples"].nunique() == 1 and 24 <= curves["samples"].iloc[0] < 48
        scores = curves.pivot(index="layer", columns="control", values="score")
        assert (scores["none"] != scores["an object removed"]).any()
    assert "scenes of at least two objects, as are the curves beside them" in page.read_text()


def test_subjects_of_ones_own_are_named_in_the_script(tmp_path):
    options = ReportOptions(k=2, draws=10, bridges=2)
    page = write_report(open_toy(), Toy(open_toy().model, name="drawer"), letters(*TEXTS), tmp_path / "out", options)
    script = (page.parent / "report.py").read_text()
    assert "expert = ...  # your toy\nunderstanding = extract(expert, stimuli" in script
    assert "expert = ...  # your drawer\ngeneration = extract(expert, stimuli" in script
    compile(script, "report.py", "exec")


def test_single_figures_are_drawn_from_what_is_on_disk(report, tmp_path, capsys):
    stores = [str(report / "features" / side) for side in ("understanding", "generation")]
    plan = str(report / "plan.json")
    common = ["--venue", "icml", "--k", "5", "--out"]
    for name, arguments in {
        "own": ["curve", stores[0]],
        "across": ["curve", *stores[::-1], "--text-layer", ".5"],
        "map": ["map", *stores, "--timesteps", ".8", "--plan", plan],
        "plan": ["plan", plan],
    }.items():
        main(["figure", *arguments, *common, str(tmp_path / f"{name}.pdf")])
        assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / f"{name}.pdf")
        assert json.loads((tmp_path / f"{name}.json").read_text())["page"]["venue"] == "icml"
    for wrong, message in (
        (["map", stores[0]], "1 sources are given: figure map is drawn from two stores"),
        (["curve", stores[0], "--text-layer", "last"], "--text-layer is a layer of the second store"),
        (["plan", plan, "--plan", plan], "--plan is drawn into a map"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["figure", *wrong, *common, str(tmp_path / "wrong.pdf")])
    assert not (tmp_path / "wrong.pdf").exists()


def test_by_a_distance_the_best_pair_is_the_nearest(tmp_path):
    options = ReportOptions(metric="information_imbalance", k=2, draws=10, bridges=2)
    page = write_report(open_toy(), Toy(open_toy().model, name="drawer"), letters(*TEXTS), tmp_path / "out", options)
    heat = pd.read_csv(page.parent / "layer-map.csv").set_index("understanding layer")
    text = page.read_text()
    assert f">{np.nanmin(heat.to_numpy()):.3g}<" in text and "The layer map gives no plan" in text
    assert not (page.parent / "ceiling-of-halves.csv").exists()
