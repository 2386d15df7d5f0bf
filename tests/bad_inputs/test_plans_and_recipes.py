"""Whatever stands in a plan or a recipe, reading it gives the same object back, or one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from bridgework.models.training.recipe import Recipe
from bridgework.probes.plans.bridge_plan import STREAMS, BridgePlan
from bridgework.probes.plans.layout_table import LAYOUTS, TRUNKS
from bridgework.probes.plans.layouts import lay_out
from bridgework.tests.bad_inputs.frame import faults_of_form, foreign

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def one_sentence(error: Exception) -> None:
    """It is an error of ours, and reads as the table of bad inputs asks."""
    assert isinstance(error, ValueError | TypeError), repr(error)
    assert not foreign(error), repr(error)
    assert not faults_of_form(str(error)), str(error)


@st.composite
def plans(draw) -> BridgePlan:
    """Any published plan, with any fields that it allows."""
    layout = draw(st.sampled_from(list(LAYOUTS)))
    depths = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    options = {} if layout in TRUNKS else {"rank": draw(st.none() | st.integers(1, 512)), "gated": draw(st.booleans())}
    laid = lay_out(layout, *depths, stream=draw(st.sampled_from(STREAMS)), **options)
    evidence = {"x": {"subject": draw(st.text())}, "values": draw(st.lists(FINITE, max_size=3))}
    return BridgePlan(**asdict(laid) | {"score": draw(st.none() | FINITE), "evidence": evidence})


@QUICK
@given(plan=plans())
def test_a_plan_comes_back_from_its_file(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan


@QUICK
@given(plan=plans(), name=st.sampled_from([field.name for field in fields(BridgePlan)]), value=ANY)
@example(plan=lay_out("H", 4, 3), name="gated", value="false")
@example(plan=lay_out("H", 4, 3), name="rank", value=2.5)
@example(plan=lay_out("H", 4, 3), name="evidence", value={"x": [], "y": {}})
def test_a_field_of_a_plan_is_right_or_refused(plan, name, value, tmp_path):
    """What is taken is written and read again, and has the type that its annotation names."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(asdict(plan) | {name: value}))
    try:
        read = BridgePlan.load(file)
    except Exception as error:
        one_sentence(error)
        return
    assert type(read.gated) is type(read.both_ways) is bool
    assert read.rank is None or type(read.rank) is int
    assert read.score is None or math.isfinite(read.score)
    assert str(read) and read.experts
    try:
        read.save(file)
    except Exception as error:  # evidence is free, but not all of it is JSON
        one_sentence(error)
    else:
        assert BridgePlan.load(file) == read


@QUICK
@given(content=st.binary(max_size=40) | ANY.map(lambda value: json.dumps(value).encode()))
@example(content=b"[" * 20_000)
@example(content=b'{"pairs": [[0, 1' + b"0" * 5000 + b"]]}")
def test_a_file_that_is_no_plan_is_refused(content, tmp_path):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises((ValueError, TypeError)) as raised:
        BridgePlan.load(tmp_path / "plan.json")
    one_sentence(raised.value)


@QUICK
@given(
    seed=st.integers(0, 2**63 - 1),
    rate=st.none() | st.floats(1e-12, 1e6),
    steps=st.integers(1, 10**6),
    rank=st.none() | st.integers(1, 10**4),
    layout=st.sampled_from([name for name in LAYOUTS if name not in TRUNKS]),
    data=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).map(str),
)
def test_a_recipe_comes_back_from_its_file(seed, rate, steps, rank, layout, data, tmp_path):
    recipe = Recipe(layout=layout, seed=seed, learning_rate=rate, steps=steps, rank=rank, data=data)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(asdict(recipe), allow_unicode=True), encoding="utf-8")
    assert Recipe.load(file) == recipe


@QUICK
@given(name=st.sampled_from([field.name for field in fields(Recipe)]), value=ANY)
@example(name="learning_rate", value="1e-3")
@example(name="seed", value=True)
def test_a_field_of_a_recipe_is_right_or_refused(name, value, tmp_path):
    text = yaml.safe_dump({"layout": "H", name: value})
    assume("\0" not in text)
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    try:
        read = Recipe.load(tmp_path / "recipe.yaml")
    except Exception as error:
        one_sentence(error)
        return
    assert read.steps >= 1 and read.batch_size >= 1 and read.seed >= 0
    assert read.learning_rate is None or 0 < read.learning_rate < math.inf
    assert read.average is None or 0 < read.average < 1


@QUICK
@given(content=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_a_file_that_is_no_recipe_is_refused(content, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises((ValueError, TypeError)) as raised:
        Recipe.load(tmp_path / "recipe.yaml")
    one_sentence(raised.value)
