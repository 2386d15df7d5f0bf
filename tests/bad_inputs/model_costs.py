"""Bad inputs of the cost estimate: none of them opens an expert or builds a model."""

from __future__ import annotations

import math
from typing import Any

import torch

from bridgework.models import estimate_cost
from bridgework.models.costs import attention_sharing, costs, count_flops, held_bytes, peak_bytes, step_seconds
from bridgework.models.costs.cost_options import CostOptions
from bridgework.models.costs.estimate import CostEstimate, estimate_costs
from bridgework.models.costs.simulation import Step
from bridgework.probes.plans import lay_out
from bridgework.tests.bad_inputs.frame import BadInput

HUGE = 10**30
# A field, what it is given, words of the error, the kind of the fault, and whether it is a TypeError.
SETTINGS: list[tuple[str, Any, str, str, bool]] = [
    ("trained", "none", "expected one of bridges", "name", False),
    ("trained", None, "expected one of bridges", "type", False),
    ("batch", 0, "from 1 to", "range", False),
    ("batch", -4, "from 1 to", "range", False),
    ("batch", 2.5, "from 1 to", "type", True),
    ("batch", True, "from 1 to", "type", True),
    ("batch", HUGE, "from 1 to", "range", False),
    ("tokens", 0, "from 1 to", "range", False),
    ("tokens", "128", "from 1 to", "type", True),
    ("resolution", 0, "from 1 to", "range", False),
    ("resolution", 512.0, "from 1 to", "type", True),
    ("precision", "fp8", "expected one of float32", "name", False),
    ("precision", 16, "expected one of float32", "type", False),
    ("checkpointing", "yes", "True or False", "type", True),
    ("gpus", 0, "from 1 to", "range", False),
    ("gpus", -8, "from 1 to", "range", False),
    ("gpus", math.inf, "from 1 to", "finite", True),
    ("replicated", 1, "True or False", "type", True),
]
HOURS: list[tuple[str, Any, str, str, bool]] = [
    ("steps", 0, "from 1 to", "range", False),
    ("steps", -5, "from 1 to", "range", False),
    ("steps", 1.5, "from 1 to", "type", True),
    ("steps", HUGE, "from 1 to", "range", False),
    ("gpu", "h100", "the nearest is 'H100'", "name", False),
    ("gpu", 100, "expected one of H100", "type", False),
    ("utilisation", 0, "above 0", "range", False),
    ("utilisation", 1.5, "of at most 1", "range", False),
    ("utilisation", -0.4, "above 0", "range", False),
    ("utilisation", math.nan, "above 0", "finite", False),
    ("utilisation", "0.4", "above 0", "type", True),
]
CPU = torch.device("cpu")
SEMANTIC = lay_out("H", 4, 3, semantic_tokens=2)
ESTIMATE = CostEstimate(lay_out("H", 4, 3), Step({}, {}, 1, 1, 1), 0, 1, 1, 1, "mixed")


class Blank:
    """What a model is asked for before it is measured."""

    loss = plan = parameters = None


def asked(**options: Any) -> Any:
    given = {"understanding": "scenes-vlm", "generation": "scenes-dit", "layout": "H"} | options
    return lambda: estimate_cost(**given)


def hours(field: str, value: Any) -> Any:
    return lambda: ESTIMATE.hours(**{"steps": 10, field: value})


def held(field: str, value: Any) -> Any:
    return lambda: CostOptions(**{field: value})


def command(*options: str) -> list[str]:
    return ["estimate", "scenes-vlm", "scenes-dit", *options]


def rows_of(name: str, call: Any, fields: list[tuple[str, Any, str, str, bool]]) -> list[BadInput]:
    return [
        BadInput(
            name, f"{field}: {value!r}", call(field, value), [field, words], kind, TypeError if by_type else ValueError
        )
        for field, value, words, kind, by_type in fields
    ]


ROWS = [
    *rows_of("estimate_cost", lambda field, value: asked(**{field: value}), SETTINGS),
    *rows_of("CostOptions", held, [*SETTINGS, *HOURS]),
    *rows_of("CostEstimate.hours", hours, HOURS),
    BadInput("CostOptions", "one layout as a text", held("layout", "H"), ["layout is 'H'", "a sequence"],
             "type", TypeError),
    BadInput("CostOptions", "no layout", held("layout", ()), ["layout is ()", "a sequence"], "range"),
    BadInput("CostOptions", "an unknown layout", held("layout", ["H", "dens"]), ["the nearest is 'dense'"], "name"),
    BadInput("CostOptions", "one trunk", held("layout", ["Y"]), ["one trunk fuses no two experts"], "conflict"),
    BadInput("CostOptions", "an unknown option", lambda: estimate_costs("scenes-vlm", "scenes-dit", {"batch": 2}),
             ["options are a dict", "CostOptions"], "type", TypeError),
    BadInput("estimate_cost", "an unknown layout", asked(layout="h"), ["the nearest is 'H'"], "name"),
    BadInput("estimate_cost", "a layout that is a number", asked(layout=3), ["unknown layout 3"], "type"),
    BadInput("estimate_cost", "one trunk", asked(layout="X"), ["one trunk fuses no two experts"], "conflict"),
    BadInput("estimate_cost", "a plan of semantic tokens", asked(layout=SEMANTIC), ["plan without them"], "conflict"),
    BadInput("estimate_cost", "no expert", asked(understanding=None), ["the understanding expert", "a path"],
             "type", TypeError),
    BadInput("estimate_cost", "a number as an expert", asked(generation=3), ["the generation expert is 3"],
             "type", TypeError),
    BadInput("costs", "no model", lambda: costs(None, {}), ["a fused or unified model", "NoneType"], "type", TypeError),
    BadInput("costs", "no rounds", lambda: costs(Blank(), {}, 0), ["rounds is 0", "of at least 1"], "range"),
    BadInput("attention_sharing", "a layout", lambda: attention_sharing("H"), ["the plan is a str"], "type", TypeError),
    BadInput("count_flops", "no run", lambda: count_flops(None), ["run is None", "a function"], "type", TypeError),
    BadInput("step_seconds", "no run", lambda: step_seconds(3, CPU), ["run is 3", "a function"], "type", TypeError),
    BadInput("step_seconds", "no rounds", lambda: step_seconds(list, CPU, 0), ["rounds is 0"], "range"),
    BadInput("step_seconds", "a word", lambda: step_seconds(list, "cpu"), ["device is 'cpu'"], "type", TypeError),
    BadInput("peak_bytes", "no run", lambda: peak_bytes(3, CPU), ["run is 3", "a function"], "type", TypeError),
    BadInput("peak_bytes", "meta", lambda: peak_bytes(list, torch.device("meta")), ["not on meta"], "missing"),
    BadInput("held_bytes", "numbers", lambda: held_bytes([3]), ["tensors is [3]", "a Tensor"], "type", TypeError),
    BadInput("bridgework estimate", "an unknown expert", ["estimate", "qwen-vl-7b", "scenes-dit"],
             ["unknown expert 'qwen-vl-7b'", "the nearest is 'qwen2.5-vl-7b'"], "name"),
    BadInput("bridgework estimate", "a missing folder", ["estimate", "runs/model", "scenes-dit"],
             ["there is no folder runs/model"], "missing"),
    BadInput("bridgework estimate", "a batch of 0", command("--batch", "0"), ["batch is 0"], "range"),
    BadInput("bridgework estimate", "hours below 0", command("--steps", "-5"), ["steps is -5"], "range"),
    BadInput("bridgework estimate", "no GPU", command("--gpus", "0"), ["gpus is 0"], "range"),
    BadInput("bridgework estimate", "an unknown GPU", command("--gpu", "H200"), ["the nearest is 'H100'"], "name"),
    BadInput("bridgework estimate", "a share that is NaN", command("--utilisation", "nan"), ["utilisation is nan"],
             "finite"),
    BadInput("bridgework estimate", "an unknown layout", command("--layout", "H", "h"), ["the nearest is 'H'"], "name"),
    BadInput("bridgework estimate", "a plan that is missing", command("--layout", "{here}/plan.json"),
             ["no bridge plan"], "missing"),
]  # fmt: skip
