"""The command line: help everywhere, the main path on a few scenes, and errors in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bridgework.__main__ import main
from bridgework.models.experts.opening import open_expert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus

COMMANDS = ("demo", "reproduce", "extract", "align", "choose", "train", "evaluate", "plan")


def told(capsys, *arguments: object) -> tuple[object, str]:
    """The exit status or message, and what was printed."""
    with pytest.raises(SystemExit) as raised:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return raised.value.code, said.out + said.err


def test_help(capsys):
    status, text = told(capsys, "--help")
    assert status == 0
    assert text.startswith("usage: python -m bridgework")
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    status, text = told(capsys, command, "--help")
    assert status == 0
    assert text.startswith(f"usage: python -m bridgework {command}")
    assert len(text.splitlines()) >= 5


@pytest.mark.parametrize("arguments", [(), ("dance",), ("extract",), ("extract", "a", "noto", "b", "--limit", "many")])
def test_wrong_arguments(arguments, capsys):
    status, text = told(capsys, *arguments)
    assert status == 2
    assert "usage:" in text


def test_from_experts_to_a_plan(tmp_path, capsys):
    seen, made = tmp_path / "seen", tmp_path / "made"
    main(["extract", "scenes-vlm", "scenes-evidence", str(seen), "--limit", "32"])
    main(["extract", "scenes-dit", "scenes-evidence", str(made), "--limit", "32", "--timesteps", ".5", ".8"])
    features = Features.load(made)
    assert features["image"].values.shape[0] == 2
    assert len(features["image"].samples) == 32
    assert set(Features.load(seen)) == {"image", "text"}

    main(["align", str(seen), str(tmp_path / "curve.csv"), "--metric", "mutual_knn"])
    assert len(pd.read_csv(tmp_path / "curve.csv")) == len(Features.load(seen)["image"].layers)
    assert "null95" in capsys.readouterr().out

    choose = ["choose", str(seen), str(made), str(tmp_path / "plan.json"), "--bridges", "3"]
    status, _ = told(capsys, *choose)
    assert str(status).startswith("bridgework: ")  # two timesteps: which?
    assert not (tmp_path / "plan.json").exists()
    main([*choose, "--timestep", ".5"])
    plan = BridgePlan.load(tmp_path / "plan.json")
    assert len(plan.pairs) == 3
    assert plan.rule == "alignment"
    assert ", ".join(f"{u}-{g}" for u, g in plan.pairs) in capsys.readouterr().out

    before = {path: path.stat().st_mtime_ns for path in seen.iterdir()}
    main(["extract", "scenes-vlm", "scenes-evidence", str(seen), "--limit", "32"])
    assert {path: path.stat().st_mtime_ns for path in seen.iterdir()} == before
    status, _ = told(capsys, "extract", "scenes-vlm", "scenes-evidence", seen, "--limit", "31")
    assert "features made differently" in str(status)
    assert {path.name for path in tmp_path.iterdir()} == {seen.name, made.name, "curve.csv", "plan.json"}


def test_what_is_kept_and_how(tmp_path):
    how = ["--limit", "6", "--batch-size", "2", "--layers", "embeddings", "3", "--precision", "bf16"]
    how += ["--dtype", "float16", "--pooling", "grid:2", "--cleaned", "--task", "understanding"]
    main(["extract", "scenes-vlm", "scenes-test", str(tmp_path / "out"), *how])
    seen = Features.load(tmp_path / "out")
    assert seen["image"].layers == ("embeddings", "3")
    assert seen["image"].values.shape == (2, 6, 2, 2, 128)
    assert seen["text"].cleaned.values.dtype == torch.float16
    assert (seen.provenance["precision"], seen.provenance["batch_size"]) == ("bf16", 2)


def test_an_unknown_expert_is_one_line(tmp_path):
    command = [sys.executable, "-m", "bridgework", "extract", "scenes-vml", "noto", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("bridgework: unknown expert 'scenes-vml': expected one of scenes-vlm, scenes-dit")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def image_features(tmp_path_factory):
    """The features of an expert that sees images alone."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]
    expert = open_expert("scenes-vlm", random_weights=True)
    seen = extract(expert, Stimuli([Stimulus(image, f"a {i}", f"{i}") for i, image in enumerate(images)]))
    Features({"image": seen["image"]}).save(folder / "image")
    return folder / "image"


def test_errors_are_one_line(tmp_path, capsys, image_features):
    out, missing = tmp_path / "out", tmp_path / "missing"
    broken = shutil.copytree(image_features, tmp_path / "broken")
    shard = broken / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-20])
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    for arguments, error in (
        (("extract", "scenes-vlm", "scenes-dev", out, "--limit", 4), "unknown part 'dev'"),
        (("extract", "scenes-vlm", missing, out), "missing"),
        (("extract", "scenes-dit", "scenes-test", out, "--limit", 4), "scenes-dit needs timesteps"),
        (("extract", "scenes-vlm", "scenes-test", out, "--limit", 4, "--timesteps", 0.5), "takes no timesteps"),
        (
            ("extract", "scenes-vlm", "scenes-test", out, "--limit", 4, "--pooling", "x"),
            "unknown pooling 'x'",
        ),
        (("extract", "scenes-vlm", "scenes-test", out, "--limit", 4, "--layers", "99"), "has no layer '99'"),
        (("extract", "scenes-vlm", "scenes-test", out, "--limit", 4, "--task", "generation"), "unknown task"),
        (("align", missing, out), "no features in"),
        (("align", broken, out), "is no whole safetensors file"),
        (("align", image_features, out), "no 'text' features: there are image"),
        (("choose", image_features, image_features, out), "no 'text' features: there are image"),
        (("train", plan, tmp_path / "run"), "is not a bridge plan"),
        (("evaluate", "scenes-vlm", "--part", "dev"), "unknown part 'dev'"),
        (("evaluate", missing), "unknown expert"),
        (("evaluate", "scenes-vlm", "--dense"), "scenes-vlm draws nothing"),
        (("evaluate", "scenes-dit", "--costs"), "expected a fused or unified model"),
    ):
        status, _ = told(capsys, *arguments)
        assert isinstance(status, str), arguments
        assert status.startswith("bridgework: "), status
        assert error in status
        assert "\n" not in status
        assert not out.exists()


def test_a_generator_is_scored_on_dense_captions_and_by_its_distance(capsys):
    main(["evaluate", "scenes-dit", "--each", "1", "--dense", "--distance", "scenes-vlm"])
    text = capsys.readouterr().out
    for told in ("scene score", "colour attribution", "image distance", "frechet", "floor", "dense captions", "entity"):
        assert told in text
    assert "costs" not in text


def test_an_interruption_is_told(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bridgework.models.experts.opening.open_expert", interrupted)
    status, text = told(capsys, "evaluate", "scenes-vlm")
    assert status == 130
    assert text == "bridgework: stopped; the same command goes on from here\n"
