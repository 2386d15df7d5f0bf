"""Bad inputs of the commands that measure, draw and check."""

from __future__ import annotations

from bridgework.tests.bad_inputs.frame import BadInput, rows_of
from bridgework.tests.bad_inputs.good_inputs import plan_file, store


def command(*arguments: str) -> list[BadInput]:
    """The rows that hold for every command: what argparse says."""
    name = f"bridgework {arguments[0]}"
    return rows_of(
        name,
        ("an unknown option", [*arguments, "--colour", "red"], ["unrecognized arguments", "--help"], "name"),
        ("nothing at all", [arguments[0]], ["arguments are required"], "missing"),
    )


ROWS = [
    *command("extract", "scenes-dit", "noto", "{here}/out"),
    *rows_of(
        "bridgework extract",
        ("an unknown set", ["extract", "scenes-dit", "notto", "{here}/out"], ["unknown stimuli 'notto'"], "name"),
        ("a missing table", ["extract", "scenes-dit", "{here}/a.csv", "{here}/out"], ["a.csv"], "missing"),
        ("a limit of 0", ["extract", "scenes-dit", "noto", "{here}/out", "--limit", "0"], ["limit is 0"], "range"),
        ("half a limit", ["extract", "scenes-dit", "noto", "{here}/out", "--limit", "1.5"], ["--limit", "int"], "type"),
        (
            "a batch of 0",
            ["extract", "scenes-dit", "noto", "{here}/o", "--batch-size", "0"],
            ["batch_size is 0"],
            "range",
        ),
        ("an unknown part", ["extract", "scenes-dit", "noto", "{here}/o", "--part", "tset"], ["'test'"], "name"),
        (
            "batches of a word",
            ["extract", "scenes-dit", "noto", "{here}/o", "--batch-size", "x"],
            ["--batch-size"],
            "type",
        ),
        (
            "an unknown format",
            ["extract", "scenes-dit", "noto", "{here}/o", "--dtype", "int8"],
            ["--dtype", "float16"],
            "name",
        ),
        (
            "a timestep of a word",
            ["extract", "scenes-dit", "noto", "{here}/o", "--timesteps", "noon"],
            ["--timesteps"],
            "type",
        ),
    ),
    *command("check", "scenes-dit"),
    *rows_of(
        "bridgework check",
        ("a timestep of a word", ["check", "scenes-dit", "--timesteps", "noon"], ["--timesteps", "noon"], "type"),
    ),
    *command("align", store()),
    *rows_of(
        "bridgework align",
        ("a k that is a word", ["align", "{here}", "--k", "ten"], ["--k", "ten"], "type"),
        ("a store that is missing", ["align", "{here}/missing"], ["no features in", "extract them first"], "missing"),
        ("a file as a store", ["align", plan_file()], ["plan.json is a file", "folder"], "file"),
        ("an unknown metric", ["align", store(), "--metric", "ckaa"], ["the nearest is 'cka'"], "name"),
        ("a k of 0", ["align", store(), "--k", "0"], ["k is 0", "at least 1"], "range"),
        ("a block of 0", ["align", store(), "--block", "0", "--k", "3"], ["block is 0"], "range"),
        ("an endless tolerance", ["align", store(), "--tolerance", "inf"], ["tolerance"], "finite"),
        ("an unknown modality", ["align", store(), "--modalities", "image", "txt"], ["no 'txt' features"], "name"),
        ("a timestep of a still model", ["align", store(), "--timesteps", "0.5"], ["timestep"], "conflict"),
        ("an unknown layer", ["align", store(), store(), "--text-layer", "99"], ["no layer '99'"], "name"),
    ),
    *command("map", store(), store(), "{here}/map"),
    *rows_of(
        "bridgework map",
        ("a store that is missing", ["map", store(), "{here}/none", "{here}/map"], ["no features in"], "missing"),
        (
            "a metric in capitals",
            ["map", store(), store(), "{here}/m", "--metric", "CKA"],
            ["nearest is 'cka'"],
            "name",
        ),
        ("a timestep of none", ["map", store(), store(), "{here}/m", "--k", "99"], ["k must be", "23"], "range"),
        ("an unknown modality", ["map", store(), store(), "{here}/m", "--modalities", "a", "b"], ["no 'a'"], "name"),
    ),
    *command("choose", store(), store(), "{here}/plan.json"),
    *rows_of(
        "bridgework choose",
        ("an unknown rule", ["choose", store(), store(), "{here}/p.json", "--rule", "erly"], ["is 'early'"], "name"),
        ("a k below 0", ["choose", store(), store(), "{here}/p.json", "--k", "-1"], ["k is -1", "at least 1"], "range"),
        ("no bridges", ["choose", store(), store(), "{here}/p.json", "--bridges", "0"], ["bridges is 0"], "range"),
        ("too many bridges", ["choose", store(), store(), "{here}/p.json", "--bridges", "9"], ["from 1 to 2"], "range"),
        ("an unknown layout", ["choose", store(), store(), "{here}/p.json", "--layout", "Z"], ["layout 'Z'"], "name"),
        (
            "a seed below 0",
            ["choose", store(), store(), "{here}/p.json", "--bridges", "1", "--seed", "-1"],
            ["seed"],
            "range",
        ),
        (
            "evidence that is missing",
            ["choose", store(), store(), "{here}/p.json", "--rule", "causal", "--evidence", "{here}/a.csv"],
            ["no evidence", "a.csv"],
            "missing",
        ),
        (
            "evidence that is a plan",
            ["choose", store(), store(), "{here}/p.json", "--rule", "divergence", "--evidence", plan_file()],
            ["plan.json holds no evidence", "field of a divergence"],
            "file",
        ),
        (
            "a rule that features cannot give",
            ["choose", store(), store(), "{here}/p.json", "--rule", "causal"],
            ["'causal' needs the links", "--evidence FILE"],
            "missing",
        ),
        (
            "a metric of a rule that measures nothing",
            ["choose", store(), store(), "{here}/p.json", "--rule", "early", "--metric", "cka_rbf"],
            ["--metric is of rules that measure"],
            "conflict",
        ),
    ),
    *command("report", "scenes-vlm", "scenes-dit", "noto", "{here}/report"),
    *rows_of(
        "bridgework report",
        ("a missing folder", ["report", "scenes-vlm", "scenes-dit", "{here}/a.csv", "{here}/o"], ["a.csv"], "missing"),
        (
            "two venues' columns",
            ["report", "scenes-vlm", "scenes-dit", "noto", "{here}/o", "--columns", "3"],
            ["columns is 3", "from 1 to 2"],
            "range",
        ),
        (
            "a limit of -1",
            ["report", "scenes-vlm", "scenes-dit", "noto", "{here}/o", "--limit", "-1"],
            ["limit is -1"],
            "range",
        ),
    ),
    *command("figure", "curve", store()),
    *rows_of(
        "bridgework figure",
        ("an unknown kind", ["figure", "crve", store()], ["invalid choice", "curve"], "name"),
        ("one store of a map", ["figure", "map", store()], ["1 sources", "two stores"], "shape"),
        ("a plan that is missing", ["figure", "plan", "{here}/a.json"], ["no bridge plan", "a.json"], "missing"),
        ("a store as a plan", ["figure", "plan", store()], ["no bridge plan", "choose_bridges"], "missing"),
        ("an unknown venue", ["figure", "plan", plan_file(), "--venue", "cvrp"], ["nearest is 'cvpr'"], "name"),
        (
            "three columns",
            ["figure", "plan", plan_file(), "--venue", "cvpr", "--columns", "3"],
            ["columns is 3"],
            "range",
        ),
        ("a format of others", ["figure", "plan", plan_file(), "--out", "{here}/a.jpg"], ["'.jpg'", ".pdf"], "name"),
        ("a plan in a curve", ["figure", "curve", store(), "--plan", plan_file()], ["--plan is drawn"], "conflict"),
        ("a layer of one store", ["figure", "curve", store(), "--text-layer", "1"], ["--text-layer"], "conflict"),
    ),
    *rows_of(
        "bridgework doctor",
        ("an argument", ["doctor", "all"], ["unrecognized arguments", "all"], "name"),
    ),
]
