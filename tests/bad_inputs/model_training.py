"""Bad inputs of recipes, as objects and YAML files, and of training: all are said before an expert is opened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bridgework.models import Recipe, run_recipe, train
from bridgework.models.training import fit, question_tokenizer
from bridgework.models.training.pretraining import pretrain
from bridgework.probes.plans import lay_out
from bridgework.tests.bad_inputs.frame import BadInput

HUGE = 10**30
# A field, what it is given, words of the error, the kind of the fault, and whether it is a TypeError.
NUMBERS: list[tuple[str, Any, str, str, bool]] = [
    ("steps", 0, "of at least 1", "range", False),
    ("steps", -1, "of at least 1", "range", False),
    ("steps", 2.5, "of at least 1", "type", True),
    ("steps", True, "of at least 1", "type", True),
    ("steps", "20", "of at least 1", "type", True),
    ("steps", math.inf, "of at least 1", "finite", True),
    ("steps", HUGE, "of at least 1", "range", False),
    ("seed", -1, "from 0 to", "range", False),
    ("seed", 1.5, "from 0 to", "type", True),
    ("seed", HUGE, "from 0 to", "range", False),
    ("batch_size", 0, "from 1 to", "range", False),
    ("batch_size", None, "from 1 to", "type", True),
    ("learning_rate", 0, "above 0", "range", False),
    ("learning_rate", -0.01, "above 0", "range", False),
    ("learning_rate", math.nan, "above 0", "finite", False),
    ("learning_rate", math.inf, "above 0", "finite", False),
    ("learning_rate", True, "above 0", "type", True),
    ("learning_rate", "fast", "above 0", "type", True),
    ("average", 2, "above 0 and below 1", "range", False),
    ("average", 1.0, "above 0 and below 1", "range", False),
    ("average", 0, "above 0 and below 1", "range", False),
    ("average", math.nan, "above 0 and below 1", "finite", False),
    ("validate", -1, "from 0 to", "range", False),
    ("validate", 0.5, "from 0 to", "type", True),
    ("validate", True, "from 0 to", "type", True),
    ("shuffled", "no", "True or False", "type", True),
    ("tensorboard", 1, "True or False", "type", True),
]
OF_RECIPES: list[tuple[str, Any, str, str, bool]] = [
    ("layout", "h", "the nearest is 'H'", "name", False),
    ("layout", 3, "expected one of shared", "type", False),
    ("understanding", "", "understanding is empty", "missing", False),
    ("understanding", 3, "expected a text or None", "type", True),
    ("generation", [], "expected a text or None", "type", True),
    ("data", "", "data is empty", "missing", False),
    ("data", None, "expected a text", "type", True),
    ("root", 3, "expected a text or None", "type", True),
    ("stream", "imgae", "the nearest is 'image'", "name", False),
    ("both_ways", "false", "True or False", "type", True),
    ("gated", "false", "True or False", "type", True),
    ("checkpointing", 1, "True or False", "type", True),
    ("rank", 0, "of at least 1", "range", False),
    ("rank", 2.5, "of at least 1", "type", True),
    ("rank", True, "of at least 1", "type", True),
    ("semantic_tokens", -2, "of at least 0", "range", False),
    ("parameters", 0, "from 1 to", "range", False),
    ("parameters", -5, "from 1 to", "range", False),
    ("parameters", 1e6, "from 1 to", "type", True),
    ("trained", "Lora", "the nearest is 'lora'", "name", False),
    ("trained", None, "expected one of bridges", "type", False),
    ("objective", "flwo", "the nearest is 'flow'", "name", False),
    ("text_states", "", "text_states is empty", "missing", False),
]
FILES: list[tuple[str, str, list[str], str]] = [
    ("an empty file", "", ["expected lines such as 'layout: H'"], "file"),
    ("a list", "- layout\n- H\n", ["expected lines such as 'layout: H'"], "file"),
    ("one word", "layout", ["expected lines such as 'layout: H'"], "file"),
    ("no YAML", "layout: H\n: : :\n", ["expected YAML"], "file"),
    ("a zero byte", "layout: H\0", ["expected YAML"], "file"),
    ("code of Python", "layout: !!python/object:os.system x\n", ["expected YAML"], "file"),
    ("an unknown key", "layout: H\nrnak: 3\n", ["'rnak'", "the nearest is 'rank'"], "name"),
    ("a number as a key", "layout: H\n3: 4\n", ["unknown key '3'"], "name"),
    ("a list as a layout", "layout: [H]\n", ["unknown layout"], "type"),
    ("steps in words", "layout: H\nsteps: many\n", ["steps is 'many'", "a whole number"], "type"),
    ("half a step", "layout: H\nsteps: 1.5\n", ["steps is 1.5", "a whole number"], "type"),
    ("endless steps", "layout: H\nsteps: .inf\n", ["steps is inf", "a whole number"], "finite"),
    ("a gate in words", "layout: H\ngated: maybe\n", ["gated is 'maybe'", "True or False"], "type"),
    ("no learning", "layout: H\nlearning_rate: 0\n", ["learning_rate is 0", "above 0"], "range"),
    ("neither layout nor plan", "steps: 3\n", ["layout or plan must be given"], "missing"),
    ("layout and plan", "layout: H\nplan: plan.json\n", ["one of the two"], "conflict"),
    ("rank and parameters", "layout: H\nrank: 2\nparameters: 9\n", ["not both"], "conflict"),
    ("a rank of one trunk", "layout: Y\nrank: 2\n", ["leave it out"], "conflict"),
    ("tokens of two towers", "layout: H\nobjective: tokens\n", ["is of one trunk"], "conflict"),
]


class Blank(nn.Module):
    """A model with a loss and a plan that is never run."""

    plan = lay_out("H", 4, 3)

    def loss(self, batch: Any) -> torch.Tensor:
        raise AssertionError("training has begun")


def read(here: Path, text: str) -> Recipe:
    (here / "recipe.yaml").write_text(text)
    return Recipe.load(here / "recipe.yaml")


def made(field: str, value: Any) -> Any:
    return lambda: Recipe(**{"layout": "H", field: value})


def fitted(**options: Any) -> Any:
    return lambda here: fit(**{"model": Blank(), "loss": Blank().loss, "folder": here / "run", "steps": 1,
                               "learning_rate": 0.1} | options)  # fmt: skip


def written(here: Path) -> Path:
    """A file in the place of a folder."""
    (here / "file").write_text("")
    return here / "file"


def started(*options: str) -> list[str]:
    return ["train", "scenes", "{here}/run", *options]


ROWS = [
    *(
        BadInput(
            "Recipe",
            f"{field}: {value!r}",
            made(field, value),
            [field, words],
            kind,
            TypeError if by_type else ValueError,
        )
        for field, value, words, kind, by_type in [*NUMBERS, *OF_RECIPES]
    ),
    *(
        BadInput(
            "train",
            f"{field}: {value!r}",
            lambda here, field=field, value=value: train(Blank(), here / "run", **{field: value}),
            [field, words],
            kind,
            TypeError if by_type else ValueError,
        )
        for field, value, words, kind, by_type in NUMBERS
    ),
    *(
        BadInput("Recipe.load", what, lambda here, text=text: read(here, text), ["recipe.yaml", *words], kind)
        for what, text, words, kind in FILES
    ),
    BadInput("Recipe.load", "an unknown name", lambda: Recipe.load("scense"),
             ["no recipe scense", "one of scenes"], "name", FileNotFoundError),
    BadInput("Recipe.load", "a folder", Recipe.load, ["no recipe", "a YAML file"], "missing", FileNotFoundError),
    BadInput("Recipe.load", "a number", lambda: Recipe.load(3), ["path is 3", "a path"], "type", TypeError),
    BadInput("run_recipe", "a name in place of a recipe", lambda here: run_recipe("scenes", here),
             ["recipe is a str", "Recipe.load"], "type", TypeError),
    BadInput("run_recipe", "a folder that is a number", lambda: run_recipe(Recipe(layout="H"), 3),
             ["folder is 3", "a path"], "type", TypeError),
    BadInput("run_recipe", "a folder that is a file", lambda here: run_recipe(Recipe(layout="H"), written(here)),
             ["is a file", "name a folder"], "file"),
    BadInput("run_recipe", "a log that cannot be called", lambda here: run_recipe(Recipe(layout="H"), here, on_log=3),
             ["on_log is 3", "a function"], "type", TypeError),
    BadInput("run_recipe", "a plan that is missing", lambda here: run_recipe(Recipe(plan="missing.json"), here),
             ["no bridge plan missing.json"], "missing", FileNotFoundError),
    BadInput("run_recipe", "an expert in a missing folder",
             lambda here: run_recipe(Recipe(layout="H", understanding="./missing"), here),
             ["there is no folder ./missing"], "missing", FileNotFoundError),
    BadInput("run_recipe", "an unknown expert",
             lambda here: run_recipe(Recipe(layout="H", generation="scenes-dti"), here),
             ["unknown expert 'scenes-dti'", "the nearest is 'scenes-dit'"], "name"),
    BadInput("run_recipe", "data that are missing", lambda here: run_recipe(Recipe(layout="H", data="./missing"), here),
             ["there is no file or folder ./missing"], "missing", FileNotFoundError),
    BadInput("train", "no model", lambda here: train(None, here), ["NoneType has no loss"], "type", TypeError),
    BadInput("train", "a model without a loss", lambda here: train(nn.Linear(2, 2), here),
             ["a Linear has no loss", "FusedModel"], "type", TypeError),
    BadInput("train", "a folder that is a number", lambda: train(Blank(), 3), ["folder is 3"], "type", TypeError),
    BadInput("train", "a folder that is a file", lambda here: train(Blank(), written(here)),
             ["is a file", "name a folder"], "file"),
    BadInput("train", "a log that cannot be called", lambda here: train(Blank(), here, on_log="print"),
             ["on_log is 'print'", "a function"], "type", TypeError),
    BadInput("fit", "no module", fitted(model=3), ["model is a int", "a torch.nn.Module"], "type", TypeError),
    BadInput("fit", "a loss that is a number", fitted(loss=0.5), ["loss is 0.5", "a function"], "type", TypeError),
    BadInput("fit", "no steps", fitted(steps=0), ["steps is 0", "of at least 1"], "range"),
    BadInput("fit", "no learning", fitted(learning_rate=0), ["learning_rate is 0", "above 0"], "range"),
    BadInput("fit", "a rate of Muon that is NaN", fitted(muon=math.nan), ["muon is nan", "above 0"], "finite"),
    BadInput("fit", "an average that is no decay", fitted(average=2.0), ["average is 2.0", "below 1"], "range"),
    BadInput("fit", "a checkpoint after 0 steps", fitted(checkpoint_every=0), ["checkpoint_every is 0"], "range"),
    BadInput("fit", "a scale that cannot be called", fitted(lr_scale=2), ["lr_scale is 2", "a function"],
             "type", TypeError),
    BadInput("question_tokenizer", "no model", lambda: question_tokenizer(None),
             ["NoneType has no plan", "a fused or unified model"], "type", TypeError),
    BadInput("pretrain", "another name", lambda here: pretrain("scenes-vml", here), ["the nearest is 'scenes-vlm'"],
             "name"),
    BadInput("pretrain", "no steps", lambda here: pretrain("scenes-vlm", here, 0), ["steps is 0"], "range"),
    BadInput("bridgework train", "an unknown recipe", ["train", "scense", "{here}"], ["no recipe scense"], "name"),
    BadInput("bridgework train", "a plan that is missing", ["train", "missing.json", "{here}"],
             ["no bridge plan missing.json"], "missing"),
    BadInput("bridgework train", "no steps", started("--steps", "0"), ["steps is 0"], "range"),
    BadInput("bridgework train", "steps below 0", started("--steps", "-1"), ["steps is -1"], "range"),
    BadInput("bridgework train", "steps in words", started("--steps", "many"), ["--steps", "'many'", "int"], "type"),
    BadInput("bridgework train", "no learning", started("--learning-rate", "0"), ["learning_rate is 0.0"], "range"),
    BadInput("bridgework train", "an average of 2", started("--average", "2"), ["average is 2.0", "below 1"], "range"),
    BadInput("bridgework train", "an unknown layout", started("--layout", "h"), ["the nearest is 'H'"], "name"),
    BadInput("bridgework train", "a hub that is a missing folder", started("--understanding", "runs/model"),
             ["there is no folder runs/model", "hf download"], "missing"),
    BadInput("bridgework train", "data that are missing", started("--data", "./missing"),
             ["there is no file or folder ./missing"], "missing"),
    BadInput("bridgework train", "no steps of an expert", ["train", "scenes-vlm", "{here}", "--steps", "0"],
             ["steps is 0"], "range"),
    BadInput("bridgework train", "an option that an expert's training lacks",
             ["train", "scenes-vlm", "{here}", "--seed", "3"], ["takes no seed"], "conflict"),
]  # fmt: skip
