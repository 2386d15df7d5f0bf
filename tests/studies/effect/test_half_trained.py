"""Half-trained bridges: the shipped ones fit their record and read text, and a tiny demo trains them on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from bridgework.models.training.validation import validation_loss
from bridgework.probes import BridgePlan
from bridgework.probes.tensor_files import read_tensors
from bridgework.studies import runs
from bridgework.studies.effect import demo_page, half_trained
from bridgework.studies.effect.half_trained import (
    AFTER,
    BEFORE,
    CEILING,
    CLOSED,
    CONDITIONS,
    batches_digest,
    condition_folder,
    open_closed,
    open_half_trained,
    train_half,
    trained_folder,
)
from bridgework.studies.settings import COMMITTED, DEMO, HALF_TRAINED, RESULTS
from bridgework.tests.studies.tiny_runs import TINY, make_cheap

RECORD = json.loads((HALF_TRAINED / "training.json").read_text())


def test_the_shipped_bridges_fit_their_record():
    fused = open_half_trained()
    assert fused.plan == BridgePlan.load(RESULTS / "plan.json")
    assert fused.steps == RECORD["steps"] == RECORD["log"][-1]["step"] + 1 < RECORD["of_steps"] == COMMITTED.steps
    assert RECORD["batch_size"] == COMMITTED.batch_size == DEMO.batch_size
    assert RECORD["batches_sha256"] == batches_digest()
    assert re.fullmatch("[0-9a-f]{40}", RECORD["commit"])
    state, _, _ = read_tensors(HALF_TRAINED / "bridges.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert sum(file.stat().st_size for file in HALF_TRAINED.iterdir()) < 3e6


def test_the_shipped_bridges_read_text():
    """With its own captions it is below the floor that it had with closed bridges, with others' far above."""
    fused = open_half_trained()
    own, others = validation_loss(fused, 1), validation_loss(fused, 1, shuffled=True)
    (floor,) = validation_loss(open_closed(), 1)
    assert own[0] < floor - 0.002
    assert own[0] < others[0] - 0.005
    assert RECORD["losses"][BEFORE] < RECORD["losses"][CLOSED]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """The demo, made cheap where the tests below do not look."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch)
        run(patch, folder)
    return folder


def run(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    patch.setattr(runs, "DEMO", TINY)
    patch.setattr(runs, "_fetched", lambda name: False)
    patch.setattr(demo_page, "entries_of", entries_of_this_run(demo_page.entries_of))
    return runs.demo(folder, folder / "gallery")


def entries_of_this_run(entries_of):
    """Leave the figures of the committed run out, which tests of figures draw."""
    return lambda folder, label: entries_of(folder, label) if folder != RESULTS else []


def test_floor_ceiling_before_and_after_are_measured_on_the_same_scenes(ran):
    captions = [tuple(pd.read_csv(condition_folder(ran, name) / "samples.csv")["caption"]) for name in CONDITIONS]
    assert len(set(captions)) == 1 and len(captions[0]) == 6
    table = pd.read_csv(ran / "effect.csv").set_index("model")
    assert list(table.index) == list(CONDITIONS) == [CLOSED, BEFORE, AFTER, CEILING]
    assert table["gained"][CLOSED] == 0
    assert table["loss"][CLOSED] > table["loss"][BEFORE] > table["loss"][CEILING]
    assert table["gained"][BEFORE] == pytest.approx(table["loss"][CLOSED] - table["loss"][BEFORE])
    assert set(table["images"]) == {6}


def test_training_goes_on_from_the_shipped_bridges(ran):
    shipped, _, _ = read_tensors(HALF_TRAINED / "bridges.safetensors")
    trained, about, _ = read_tensors(trained_folder(ran) / "bridges.safetensors")
    moved = sum(float((trained[name] - shipped[name].float()).norm()) for name in trained)
    assert 0 < moved < 0.3 * sum(float(tensor.float().norm()) for tensor in shipped.values())
    assert about["trained"][2] == RECORD["steps"] + TINY.steps
    assert pd.read_csv(ran / "learning.csv")["step"].min() == RECORD["steps"]


def test_the_page_shows_before_after_and_the_committed_run_side_by_side(ran):
    html = (ran / "gallery" / "index.html").read_text()
    images = re.findall(r'<img[^>]*src="([^"]+)"', html)
    assert images[0] == "gap-closed.png"
    samples = [f"samples-{label}.png" for label in ("this-run-half-trained", "this-run-trained-on", "committed-run")]
    assert [image for image in images if image.startswith("samples")] == samples
    section = html[html.index('id="of-samples"') :].split("</section>")[0]
    badges = re.findall(r'<p class="label (\w+)">([^<]+)</p>', section)
    assert badges == [("own", f"this run, {BEFORE}"), ("own", f"this run, {AFTER}"), ("kept", "committed run")]
    assert all((ran / "gallery" / image).is_file() for image in images)


def test_a_second_run_of_the_demo_repeats_nothing_and_says_only_its_steps(ran, monkeypatch, capfd):
    kept = {path: path.stat().st_mtime_ns for path in ran.rglob("*.safetensors")}
    kept |= {path: path.stat().st_mtime_ns for path in (ran / "effect").rglob("*.csv")}
    run(monkeypatch, ran)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:-2]] == [f"step {number} of 6" for number in range(1, 7)]
    assert lines[-1].endswith("index.html")
    assert err == ""


def test_a_run_is_left_half_way_and_written_with_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(half_trained, "HALF_STEPS", 1)
    monkeypatch.setattr(half_trained, "COMMITTED", TINY)
    make_cheap(monkeypatch)
    train_half(tmp_path / "half")
    record = json.loads((tmp_path / "half" / "training.json").read_text())
    assert (record["steps"], record["of_steps"], len(record["log"])) == (1, TINY.steps, 1)
    assert open_half_trained(tmp_path / "half").steps == 1
