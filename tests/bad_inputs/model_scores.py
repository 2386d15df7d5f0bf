"""Bad inputs of scoring and drawing: parts of scenes, options of sampling, and what neither draws nor answers."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from bridgework.models import (
    FusedModel,
    ablate_links,
    descent_map,
    draw_scenes,
    evaluate,
    generate,
    open_model,
    report,
    scene_stimuli,
)
from bridgework.models.evaluation import answer, question_accuracy, scene_score, skills_of
from bridgework.models.evaluation.evaluation_options import EvaluationOptions
from bridgework.models.evaluation.generator_gradients import block_gradients
from bridgework.models.scenes.dialogues import check_questions
from bridgework.tests.bad_inputs.frame import BadInput

HUGE = 10**30
COUNTS: list[tuple[str, Any, str, str, bool]] = [
    ("part", "tests", "the nearest is 'test'", "name", False),
    ("part", 3, "expected one of train", "type", False),
    ("part", None, "expected one of train", "type", False),
    ("each", 0, "from 1 to", "range", False),
    ("each", -1, "from 1 to", "range", False),
    ("each", 2.5, "from 1 to", "type", True),
    ("each", True, "from 1 to", "type", True),
    ("each", HUGE, "from 1 to", "range", False),
    ("seed", -1, "from 0 to", "range", False),
    ("seed", "0", "from 0 to", "type", True),
]
TABLES: list[tuple[str, Any, str, str, bool]] = [
    ("dense", "no", "True or False", "type", True),
    ("cost", 1, "True or False", "type", True),
    ("distance", "", "distance is empty", "missing", False),
    ("distance", True, "expected a text or None", "type", True),
]
SAMPLING: list[tuple[str, Any, str, str, bool]] = [
    ("steps", 0, "from 1 to", "range", False),
    ("steps", -16, "from 1 to", "range", False),
    ("steps", 1.5, "from 1 to", "type", True),
    ("steps", HUGE, "from 1 to", "range", False),
    ("guidance", math.nan, "a finite number", "finite", False),
    ("guidance", "3", "a finite number", "type", True),
    ("guidance", None, "a finite number", "type", True),
    ("batch_size", 0, "of at least 1", "range", False),
    ("batch_size", True, "of at least 1", "type", True),
]
UNKNOWN: list[tuple[str, Any, str, str, bool]] = [("stpes", 3, "the nearest is 'steps'", "name", False)]


class Blank:
    """A generator that is never run."""

    name = "blank"

    def condition(self, captions: Any) -> Any:
        raise AssertionError("drawing has begun")

    predict = condition


def fused() -> FusedModel:
    """A fused model without parts, which is never run."""
    return FusedModel.__new__(FusedModel)


def rows_of(name: str, function: Any, fields: list[tuple[str, Any, str, str, bool]], **given: Any) -> list[BadInput]:
    """A row for each argument that is wrong, beside what is given."""

    def call(field: str, value: Any) -> Any:
        return lambda: function(**given | {field: value})

    return [
        BadInput(
            name, f"{field}: {value!r}", call(field, value), [field, words], kind, TypeError if by_type else ValueError
        )
        for field, value, words, kind, by_type in fields
    ]


DRAWN = {"captions": ["a red circle"], "ids": ["one"]}
ROWS = [
    *rows_of("evaluate", evaluate, [*COUNTS, *SAMPLING, *UNKNOWN], model=Blank()),
    *rows_of("draw_scenes", draw_scenes, [*COUNTS, *SAMPLING, *UNKNOWN], model=Blank()),
    *rows_of("report", report, [*COUNTS, *TABLES, *SAMPLING, *UNKNOWN], model=Blank()),
    *rows_of("EvaluationOptions", EvaluationOptions, [*COUNTS, *TABLES]),
    *rows_of("skills_of", lambda **given: skills_of(**{"part": "test", "each": 1} | given), COUNTS[:8]),
    *rows_of("generate", generate, SAMPLING, model=Blank(), **DRAWN),
    *rows_of("ablate_links", ablate_links, [*COUNTS[:3], *COUNTS[8:], *SAMPLING[:1], *UNKNOWN],
             fused=fused(), stimuli=scene_stimuli("test", 1)),
    BadInput("evaluate", "no model", lambda: evaluate(None), ["a generator", "NoneType"], "type", TypeError),
    BadInput("evaluate", "a layer", lambda: evaluate(nn.Linear(2, 2)), ["a generator", "Linear"], "type", TypeError),
    BadInput("draw_scenes", "a name", lambda: draw_scenes("scenes-dit"), ["a generator", "str"], "type", TypeError),
    BadInput("report", "no model", lambda: report(None), ["draws or answers", "NoneType"], "type", TypeError),
    BadInput("report", "an unknown expert", lambda: report(Blank(), distance="dinov2"),
             ["unknown expert 'dinov2'", "the nearest is 'dinov2-s'"], "name"),
    BadInput("question_accuracy", "a generator", lambda: question_accuracy(Blank()),
             ["answers no questions"], "type", TypeError),
    BadInput("scene_score", "no images", lambda: scene_score([]), ["drawn is []", "draw_scenes"], "range"),
    BadInput("scene_score", "other things", lambda: scene_score([3]), ["drawn is [3]", "a Drawn"], "type", TypeError),
    BadInput("answer", "a generator", lambda: answer(Blank(), [], []), ["answers no questions"], "type", TypeError),
    BadInput("check_questions", "one question as a text", lambda: check_questions([], "how many ?"),
             ["questions is 'how many ?'", "a sequence"], "type", TypeError),
    BadInput("check_questions", "texts as images", lambda: check_questions(["a"], ["how many ?"]),
             ["images are", "PIL images"], "type", TypeError),
    BadInput("generate", "no generator", lambda: generate(nn.Linear(2, 2), **DRAWN), ["a generator"],
             "type", TypeError),
    BadInput("generate", "one caption as a text", lambda: generate(Blank(), "a red circle", ["one"]),
             ["captions is 'a red circle'", "a sequence"], "type", TypeError),
    BadInput("generate", "no captions", lambda: generate(Blank(), [], []), ["captions is []", "a sequence"], "range"),
    BadInput("generate", "captions that are numbers", lambda: generate(Blank(), [3], ["one"]),
             ["captions is [3]", "a text"], "type", TypeError),
    BadInput("generate", "ids that are numbers", lambda: generate(Blank(), ["a"], [1]), ["ids is [1]"],
             "type", TypeError),
    BadInput("generate", "fewer ids than captions", lambda: generate(Blank(), ["a", "b"], ["one"]),
             ["one id for each caption", "2 captions and 1 ids"], "conflict"),
    BadInput("ablate_links", "no fused model", lambda: ablate_links(None, scene_stimuli("test", 1)),
             ["fused is a NoneType", "a FusedModel"], "type", TypeError),
    BadInput("ablate_links", "texts as stimuli", lambda: ablate_links(fused(), ["a"]),
             ["stimuli are a list", "load_stimuli"], "type", TypeError),
    *rows_of("ablate_links", ablate_links,
             [("times", [], "a sequence", "range", False), ("times", 0.5, "a sequence", "type", True),
              ("times", [0.0], "above 0", "range", False), ("times", [2.0], "of at most 1", "range", False),
              ("times", [math.nan], "above 0", "finite", False), ("times", ["a"], "a finite number", "type", True),
              ("each", -1, "of at least 0", "range", False), ("batch_size", 0, "of at least 1", "range", False)],
             fused=fused(), stimuli=scene_stimuli("test", 2)),
    BadInput("descent_map", "a model that draws nothing",
             lambda: descent_map([], nn.Linear(2, 2), scene_stimuli("test", 1)),
             ["Linear has no predict"], "type", TypeError),
    BadInput("descent_map", "texts as stimuli", lambda: descent_map([], Blank(), ["a"]),
             ["stimuli are a list", "load_stimuli"], "type", TypeError),
    BadInput("block_gradients", "no generator", lambda: block_gradients(None, scene_stimuli("test", 1)),
             ["NoneType has no predict"], "type", TypeError),
    BadInput("scene_stimuli", "an unknown part", lambda: scene_stimuli("tests", 2), ["the nearest is 'test'"], "name"),
    BadInput("scene_stimuli", "no scenes", lambda: scene_stimuli("test", 0), ["count is 0", "of at least 1"], "range"),
    BadInput("scene_stimuli", "half a scene", lambda: scene_stimuli("test", 1.5), ["count is 1.5"], "type", TypeError),
    BadInput("scene_stimuli", "endless scenes", lambda: scene_stimuli("test", HUGE), ["count is"], "range"),
    BadInput("scene_stimuli", "a seed below 0", lambda: scene_stimuli("test", 2, -1), ["seed is -1"], "range"),
    BadInput("open_model", "a missing folder", lambda: open_model("runs/model"),
             ["there is no folder runs/model"], "missing", FileNotFoundError),
    BadInput("open_model", "a number", lambda: open_model(3), ["name is 3", "a path"], "type", TypeError),
    BadInput("bridgework evaluate", "an unknown expert", ["evaluate", "scenes-vml"], ["the nearest is 'scenes-vlm'"],
             "name"),
    BadInput("bridgework evaluate", "a missing folder", ["evaluate", "./missing"], ["there is no folder ./missing"],
             "missing"),
    BadInput("bridgework evaluate", "an empty folder", ["evaluate", "{here}"], ["config.json"], "file"),
    BadInput("bridgework evaluate", "an unknown part", ["evaluate", "scenes-vlm", "--part", "dev"],
             ["unknown part 'dev'"], "name"),
    BadInput("bridgework evaluate", "nothing to score", ["evaluate", "scenes-vlm", "--each", "0"], ["each is 0"],
             "range"),
    BadInput("bridgework evaluate", "a seed below 0", ["evaluate", "scenes-vlm", "--seed", "-1"], ["seed is -1"],
             "range"),
    BadInput("bridgework evaluate", "an unknown expert of the distance", ["evaluate", "scenes-dit", "--distance",
             "dino-s"],
             ["the nearest is 'dinov2-s'"], "name"),
]  # fmt: skip
