"""The command line: help everywhere, the main path on a few scenes, and errors in one line."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bridgework.__main__ import COMMANDS, main
from bridgework.command_line import parse
from bridgework.models.experts.opening import open_expert
from bridgework.models.training import recipe
from bridgework.models.training.recipe import Recipe
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.fixed_rules import FIXED
from bridgework.probes.plans.rules import RULES
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.studies import runs
from bridgework.studies.runs import STUDIES

NAMES = (
    "demo",
    "reproduce",
    "extract",
    "check",
    "align",
    "map",
    "choose",
    "train",
    "evaluate",
    "estimate",
    "fetch",
    "report",
    "figure",
    "doctor",
)


def run_to_exit(capsys, *arguments: object) -> tuple[object, str]:
    """Return the exit status or the error's message, and what was printed."""
    with pytest.raises(SystemExit) as raised:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return raised.value.code, printed.out + printed.err


def test_help(capsys):
    status, text = run_to_exit(capsys, "--help")
    assert status == 0
    assert text.startswith("usage: bridgework")
    assert tuple(COMMANDS) == tuple(name for name in COMMANDS if name in NAMES) and len(COMMANDS) == len(NAMES)
    for name, command in COMMANDS.items():
        assert name in text
        assert command.about in " ".join(text.split())


@pytest.mark.parametrize("command", NAMES)
def test_help_of_each_command(command, capsys):
    status, text = run_to_exit(capsys, command, "--help")
    assert status == 0
    assert text.startswith(f"usage: bridgework {command}")
    words = " ".join(text.split())
    assert COMMANDS[command].about in words
    assert words.endswith(f"example: {COMMANDS[command].example}")
    options = text.split("options:")[1].split("example:")[0]
    entries = re.split(r"\n  (?=--)", options)[1:]  # without -h, --help
    assert len(entries) == options.count("\n  --")
    for entry in entries:
        assert re.search(r"[a-z].*\. \(default: [^)]", " ".join(entry.split())), entry


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("extract", ["--batch-size BATCH_SIZE", "(default: 32)", "--dtype {float32,float16,bfloat16}", "--joint "]),
        ("choose", [", ".join([*RULES, *FIXED]), "(default: mutual_knn)"]),
        ("train", ["--gated, --no-gated", "--learning-rate LEARNING_RATE", "--steps STEPS", "(default: 600)"]),
        ("evaluate", ["--distance [EXPERT]", "--cost, --costs", "(default: off)"]),
        ("plan", ["usage: bridgework estimate", "--layout LAYOUT [LAYOUT ...]", "(default: H)", "(default: 10000)"]),
    ],
)
def test_help_shows_spellings_and_defaults(command, lines, capsys):
    words = " ".join(run_to_exit(capsys, command, "--help")[1].split())
    for line in lines:
        assert line in words


def test_every_field_of_a_recipe_is_an_option(capsys):
    text = run_to_exit(capsys, "train", "--help")[1]
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(Recipe))


def test_every_example_is_understood():
    for name, command in COMMANDS.items():
        program, *arguments = shlex.split(command.example)
        run, _ = parse(COMMANDS, arguments)
        assert (program, arguments[0], run) == ("bridgework", name, command.run)


def test_examples_run(tmp_path, monkeypatch, capsys):
    few = ["--limit", "24"]  # instead of the example's own
    monkeypatch.chdir(tmp_path)
    main(["extract", "scenes-vlm", "scenes-evidence", "runs/vlm", *few])
    for name in ("extract", "align", "map", "choose"):
        main([*shlex.split(COMMANDS[name].example)[1:], *(few if name == "extract" else [])])
    plan = BridgePlan.load("runs/plan.json")
    assert (len(plan.pairs), plan.layout) == (4, "H")
    said = capsys.readouterr().out
    assert ", ".join(f"{u}-{g}" for u, g in plan.pairs) in said
    assert "runs/vlm: 17 layers of image, 17 layers of text, over 24 stimuli of 'scenes-evidence', in" in said
    assert "mutual_knn of 24 stimuli, scenes-dit (image) x scenes-vlm (text), layer 15" in said
    assert "map.csv: mutual_knn of 24 stimuli at t = 0.5\n" in said


HELP = """
import sys
from bridgework.__main__ import COMMANDS, main
from bridgework.command_line import parse

for command in ((), ("dance",), ("train", "--help"), ("evaluate", "--help"), ("estimate", "--wrong"), ("fetch", "-h")):
    try:
        main(list(command) or ["--help"])
    except SystemExit:
        pass
print(sorted({"torch", "transformers", "pandas", "scipy"} & sys.modules.keys()), file=sys.stderr)
"""


def test_help_and_wrong_arguments_wait_for_no_model(tmp_path):
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("dance",), ("extract",), ("extract", "scenes-vlm", "noto", "b", "--limit", "many")]
)
def test_wrong_arguments(arguments, capsys):
    status, text = run_to_exit(capsys, *arguments)
    assert status == 2
    assert "usage:" in text


def test_from_experts_to_a_plan(tmp_path, capsys):
    understanding, generation = tmp_path / "understanding", tmp_path / "generation"
    main(["extract", "scenes-vlm", "scenes-evidence", str(understanding), "--limit", "32"])
    main(["extract", "scenes-dit", "scenes-evidence", str(generation), "--limit", "32", "--timesteps", ".5", ".8"])
    features = Features.load(generation)
    assert features["image"].values.shape[0] == 2
    assert len(features["image"].samples) == 32
    assert set(Features.load(understanding)) == {"image", "text"}

    main(["align", str(understanding), str(tmp_path / "curve.csv"), "--metric", "mutual_knn"])
    assert len(pd.read_csv(tmp_path / "curve.csv")) == len(Features.load(understanding)["image"].layers)
    assert "null95" in capsys.readouterr().out

    choose = [
        "choose",
        str(understanding),
        str(generation),
        str(tmp_path / "plan.json"),
        "--bridges",
        "3",
        "--rule",
        "alignment",
    ]
    status, _ = run_to_exit(capsys, *choose)
    assert str(status).startswith("bridgework: ")  # two timesteps: which?
    assert not (tmp_path / "plan.json").exists()
    main([*choose, "--timestep", ".5"])
    plan = BridgePlan.load(tmp_path / "plan.json")
    assert len(plan.pairs) == 3
    assert plan.rule == "alignment"
    assert ", ".join(f"{u}-{g}" for u, g in plan.pairs) in capsys.readouterr().out

    before = {path: path.stat().st_mtime_ns for path in understanding.iterdir()}
    main(["extract", "scenes-vlm", "scenes-evidence", str(understanding), "--limit", "32"])
    assert {path: path.stat().st_mtime_ns for path in understanding.iterdir()} == before
    status, _ = run_to_exit(capsys, "extract", "scenes-vlm", "scenes-evidence", understanding, "--limit", "31")
    assert "features made differently" in str(status)
    assert {path.name for path in tmp_path.iterdir()} == {understanding.name, generation.name, "curve.csv", "plan.json"}


def test_check_says_what_is_right_and_what_cannot_be_known(capsys):
    main(["check", "scenes-dit", "--timesteps", ".4"])
    printed = capsys.readouterr().out
    assert printed.startswith("passes   blocks         13 blocks of transformer_blocks")
    assert "passes   alone          generation, image and text: differs by" in printed
    assert "No check can know:\n- whether the inputs" in printed


@pytest.mark.parametrize("flag", ["--timestep", "--timesteps"])
def test_both_spellings_of_timesteps(flag):
    for command, given in (("extract a b c", [0.5]), ("align a", 0.5), ("map a b c", [0.5]), ("choose a b c", 0.5)):
        _, arguments = parse(COMMANDS, [*command.split(), flag, ".5"])
        assert arguments.get("timesteps", arguments.get("timestep")) == given


def test_what_is_kept_and_in_which_form(tmp_path):
    options = ["--limit", "6", "--batch-size", "2", "--layers", "embeddings", "3", "--precision", "bf16"]
    options += ["--dtype", "float16", "--pooling", "grid:2", "--cleaned", "--task", "understanding"]
    main(["extract", "scenes-vlm", "scenes-test", str(tmp_path / "out"), *options])
    features = Features.load(tmp_path / "out")
    assert features["image"].layers == ("embeddings", "3")
    assert features["image"].values.shape == (2, 6, 2, 2, 128)
    assert features["text"].cleaned.values.dtype == torch.float16
    assert (features.provenance["precision"], features.provenance["batch_size"]) == ("bf16", 2)


def test_an_unknown_expert_is_one_line(tmp_path):
    command = [sys.executable, "-m", "bridgework", "extract", "scenes-vml", "noto", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("bridgework: unknown expert 'scenes-vml': expected one of scenes-vlm, scenes-reader")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def image_features(tmp_path_factory):
    """The folder of an expert's image features, without text."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]
    expert = open_expert("scenes-vlm", random_weights=True)
    features = extract(expert, Stimuli([Stimulus(image, f"a {i}", f"{i}") for i, image in enumerate(images)]))
    Features({"image": features["image"]}).save(folder / "image")
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
        (("align", missing, "--out", out), "no features in"),
        (("align", broken, "--out", out), "is no whole safetensors file"),
        (("align", image_features, "--out", out), "no 'text' features: there are image"),
        (("align", image_features, missing, "--out", out), "no features in"),
        (("align", image_features, "--text-layer", "last", "--out", out), "--text-layer is a layer of the second"),
        (("choose", image_features, image_features, out), "no 'text' features: there are image"),
        (("train", plan, tmp_path / "run"), "is not a bridge plan"),
        (("evaluate", "scenes-vlm", "--part", "dev"), "unknown part 'dev'"),
        (("evaluate", missing), "there is no folder"),
        (("evaluate", "scenes-vlm", "--dense"), "scenes-vlm draws nothing"),
        (("evaluate", "scenes-dit", "--costs"), "expected a fused or unified model"),
    ):
        status, _ = run_to_exit(capsys, *arguments)
        assert isinstance(status, str), arguments
        assert status.startswith("bridgework: "), status
        assert error in status
        assert "\n" not in status
        assert not out.exists()


def test_a_generator_is_scored_on_dense_captions_and_by_its_distance(capsys):
    main(["evaluate", "scenes-dit", "--each", "1", "--dense", "--distance", "scenes-vlm"])
    text = capsys.readouterr().out
    for words in (
        "scene score",
        "colour attribution",
        "image distance",
        "frechet",
        "floor",
        "dense captions",
        "entity",
    ):
        assert words in text
    assert "costs" not in text


def test_a_flag_takes_no_value(capsys):
    status, _ = run_to_exit(capsys, "evaluate", "--dense", "scenes-vlm")
    assert str(status).startswith("bridgework: scenes-vlm draws nothing")


def test_options_replace_what_a_recipe_says(monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(recipe, "run_recipe", lambda *run: runs.append(run))
    main(["train", "scenes", str(tmp_path)])
    main(["train", "scenes", str(tmp_path), "--layout", "dense", "--shuffled", "--no-gated", "--learning-rate", "1e-3"])
    plan = tmp_path / "plan.json"
    main(["train", str(plan), str(tmp_path), "--steps", "3"])
    scenes = Recipe.load("scenes")
    assert [folder for _, folder in runs] == [tmp_path] * 3
    assert [asked for asked, _ in runs] == [
        scenes,
        replace(scenes, layout="dense", shuffled=True, gated=False, learning_rate=0.001),
        Recipe(plan=str(plan), validate=0, steps=3),
    ]


def test_a_shipped_expert_is_trained_as_it_was(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr("bridgework.models.training.pretraining.pretrain", lambda *a, **o: asked.append((a, o)))
    main(["train", "scenes-vlm", str(tmp_path), "--steps", "2"])
    assert asked == [(("scenes-vlm", tmp_path), {"steps": 2})]
    status, _ = run_to_exit(capsys, "train", "scenes-vlm", tmp_path, "--seed", "3")
    assert status == "bridgework: scenes-vlm is trained as it was shipped: it takes no seed, only steps"


@pytest.mark.parametrize(
    ("asked", "fetched"),
    [(("weights",), ["weights"]), (("pictures",), ["pictures"]), (("pictures", "weights"), ["weights", "pictures"])],
)
def test_fetch(monkeypatch, asked, fetched):
    found = []
    monkeypatch.setattr("bridgework.models.experts.downloads.weights.fetch_all", lambda: found.append("weights"))
    monkeypatch.setattr("bridgework.probes.stimuli.downloads.fetch_all", lambda: found.append("pictures"))
    main(["fetch", *asked])
    assert found == fetched


def test_what_cannot_be_fetched_is_one_line(monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("converting these weights needs gguf: pip install 'bridgework[weights]'")

    monkeypatch.setattr("bridgework.models.experts.downloads.weights.fetch_all", missing)
    assert str(run_to_exit(capsys, "fetch", "weights")[0]).startswith("bridgework: converting these weights needs gguf")
    assert run_to_exit(capsys, "fetch", "models")[0] == 2


def test_reproduce(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(runs, "reproduce", lambda *a, **o: asked.append((a, o)))
    main(["reproduce"])
    main(["reproduce", "real", "layouts", "--results", str(tmp_path)])
    assert asked == [(([],), {}), ((["real", "layouts"],), {"results": tmp_path})]
    words = "".join(run_to_exit(capsys, "reproduce", "--help")[1].split())  # lines also break at hyphens
    assert f"The studies: {', '.join(runs.STUDIES)}. (default: all of them)".replace(" ", "") in words


def test_an_unknown_study_is_one_line(capsys):
    expected = f"bridgework: unknown study 'scene': expected one of {', '.join(STUDIES)}"
    assert run_to_exit(capsys, "reproduce", "scene")[0] == expected
