"""Options classes have the arguments of the functions that they serve, with the same defaults."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from bridgework.__main__ import COMMANDS
from bridgework.models.costs.cost_options import CostOptions
from bridgework.models.costs.estimate import cost_table, estimate_cost
from bridgework.models.evaluation.evaluation_options import EvaluationOptions
from bridgework.models.evaluation.reporting import report
from bridgework.models.experts.weight_files.weight_placement import AUTO, DTYPES
from bridgework.models.training.recipe import Recipe
from bridgework.models.training.train_model import train
from bridgework.probes import alignment_curve, map_null, scaled_map, similarity, similarity_map
from bridgework.probes.comparison_options import METRIC_NAMES
from bridgework.probes.extraction_options import ExtractionOptions
from bridgework.probes.metrics import DEFAULT_METRIC, METRICS
from bridgework.probes.plans.choice_options import (
    DEFAULT_RULE,
    DRAWN,
    SCORED,
    UNSCORED,
    ChoiceOptions,
)
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.plans.fixed_rules import FIXED
from bridgework.probes.plans.layouts import lay_out
from bridgework.probes.plans.rules import RULES
from bridgework.probes.plans.stability import TAKEN
from bridgework.report_options import ReportOptions

CLASSES = (ExtractionOptions, ChoiceOptions, ReportOptions, Recipe, EvaluationOptions, CostOptions)


def defaults(function) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


@pytest.mark.parametrize(
    ("options", "functions", "but"),
    [
        (EvaluationOptions, (report,), {}),
        (CostOptions, (estimate_cost, cost_table), {"layout": ("H",), "steps": 10_000}),
        (
            ChoiceOptions,
            (choose_bridges,),
            {
                "rule": DEFAULT_RULE,  # choose_bridges says a word where it is left out
                "layout": "H",
                "matching": None,
                "rank": None,
                "metric": DEFAULT_METRIC,
                "k": 10,
                "permutations": 200,
                "timestep": None,
                "evidence": None,
            },
        ),
    ],
)
def test_they_are_the_arguments_of_their_functions(options, functions, but):
    declared = {field.name: field.default for field in fields(options)}
    taken = {name: default for function in functions for name, default in defaults(function).items()} | but
    assert declared == {name: taken[name] for name in declared}


def test_what_is_passed_on_has_the_same_defaults():
    assert defaults(lay_out)["matching"] is ChoiceOptions.matching
    assert set(defaults(report)) == {field.name for field in fields(EvaluationOptions)}
    assert set(defaults(estimate_cost)) <= {field.name for field in fields(CostOptions)}
    passed = {field.name: field.default for field in fields(Recipe)} | {"validate": 0}  # off where one trains by hand
    assert passed.items() >= {name: v for name, v in defaults(train).items() if name not in ("data", "on_log")}.items()


@pytest.mark.parametrize("options", CLASSES)
def test_every_option_has_a_plain_sentence(options):
    for field in fields(options):
        sentence, _, default = field.metadata["help"].partition(" (default: ")
        assert sentence[0].isupper() and sentence.endswith(".") and "%" not in sentence, field.name
        assert bool(default) == (field.default is None), field.name


@pytest.mark.parametrize("function", [alignment_curve, map_null, scaled_map, similarity, similarity_map])
def test_one_metric_is_the_default_everywhere(function):
    assert defaults(function)["metric"] == DEFAULT_METRIC == ChoiceOptions.metric
    assert COMMANDS["align"].arguments["--metric"]["default"] == DEFAULT_METRIC


def test_names_that_are_known_before_their_modules_are_those_of_the_tables():
    assert tuple(METRICS) == METRIC_NAMES
    assert (tuple(RULES), tuple(FIXED), tuple(TAKEN)) == (SCORED, UNSCORED, DRAWN)
    named = COMMANDS["extract"].arguments["--expert-dtype"]["choices"]
    assert set(named) == {*DTYPES, AUTO}
