"""What a docstring of a public name says: parameters, shapes, units, errors, sources, and what to use instead."""

from __future__ import annotations

import ast
import builtins
import re
from importlib import import_module

import pytest
from numpydoc.docscrape import NumpyDocString

from bridgework.probes.metrics.named_metrics import METRICS
from bridgework.probes.plans.fixed_rules import FIXED
from bridgework.probes.plans.layout_table import LAYOUTS
from bridgework.probes.plans.rules import RULES
from bridgework.tests.docstrings.public_docstrings import BY_NAME, PUBLIC, Documented
from bridgework.tests.test_architecture import exists
from bridgework.tests.test_public_names import FACES, FOLDERS

IDS = [each.name for each in PUBLIC]
TOP = [each for each in PUBLIC if each.owner is None]
MADE_BY_OTHERS = {"figures.Explorer": "explorer"}  # classes that no user constructs, and what makes them

# (layer, sample, dim), (..., sample, patch, dim'), (batch,), (token, dim)
AXIS = r"(?:\.\.\.|1|\w+'?(?: [*+] \w+)?)"
SHAPE = re.compile(rf"\({AXIS},\)|\({AXIS}(?:, {AXIS})+\)|\b[Ss]calars?\b")
REFERENCE = re.compile(
    r"\b[Aa]s (?:of|in|for|given by)? ?`[\w.]+`|in the same (?:form|order)"
)  # "as `similarity_map` takes it"
NUMBER = re.compile(r"(?:int|float|Sequence\[float\]|Tensor)(?: \| None)?")
ARRAYS = re.compile(r"\b(?:Tensor|Array|ndarray|Stack|Patches)\b")

# How a number that bears this name is counted: the docstring has one of these words.
UNITS = {
    "batch": "samples",
    "batch_size": "stimuli|images|captions|steps|samples",
    "bridges": "number of bridges|how many bridges",
    "count": "how many|count,",
    "depth": "number of blocks|relative",
    "dpi": "dots an inch",
    "draws": "how many|halves",
    "each": "number of|how many|captions|as in",
    "k": "neighbours|as in|shown first",
    "limit": "pairs|tokens",
    "memory": "bytes",
    "num_cpus": "cpus",
    "permutations": "permutations|as in|as of",
    "rank": "rank of",
    "resolution": "pixels",
    "steps": "steps",
    "time": "1 = noise|1 is noise",
    "timestep": "1 = noise|timestep of|timesteps`|shown first|one timestep",
    "timesteps": "1 = noise|timesteps of|timesteps that",
    "times": "1 = noise",
    "tokens": "tokens",
    "tolerance": "standard error|as in",
    "width": "inches",
    "workers": "how many workers",
}

# Names that are somebody's published method, or that rest on one.
PUBLISHED = re.compile(
    r"\b\d{4}\.\d{5}\b|\b(?:et al\.|and [A-Z]\w+),? (?:19|20)\d\d|\((?:19|20)\d\d|\b[A-Z]\w+ (?:19|20)\d\d\b"
)
SOURCES = [
    "models.evaluate",
    "models.generate",
    "models.UnifiedModel",
    "models.UnifiedTokens",
    "probes.alignment_curve",
    "probes.alignment_matrix",
    "probes.attention_mass",
    "probes.attribute",
    "probes.choose_bridges",
    "probes.divergence",
    "probes.gradient_conflict",
    "probes.label_probe",
    "probes.lay_out",
    "probes.map_moments",
    "probes.map_null",
    "probes.rises_then_falls",
    "probes.scaled_map",
    "probes.similarity",
]


def every(documented: list[Documented]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("each", documented, ids=[each.name for each in documented])


def prose(each: Documented) -> str:
    return " ".join(each.text.split())


@every(PUBLIC)
def test_parameters_are_those_of_the_signature(each):
    listed = NumpyDocString(ast.get_docstring(each.owner) or "")["Attributes"] if each.owner else []
    assert each.doc["Summary"] or each.name.split(".")[-1] in [row.name for row in listed], "no summary"
    if each.is_property or each.name in MADE_BY_OTHERS:
        return
    described, expected = set(each.described), {name.lstrip("*") for name in each.parameters}
    assert expected <= described, f"not described: {expected - described}"
    if not each.is_class:
        assert described <= expected, f"no such parameter: {described - expected}"
    assert all(text.strip() for text in each.described.values())


@every(PUBLIC)
def test_what_comes_back_is_described(each):
    if each.returns and not (each.is_property or each.is_short or each.lent):
        section = "Yields" if each.returns.startswith("Iterator") else "Returns"
        rows = each.doc[section]
        if section == "Yields" and "None" in each.returns:
            return
        assert rows, f"no section {section}"
        assert all(row.desc for row in rows), f"{section} says no more than the type"


@every(PUBLIC)
def test_raised_errors_are_listed(each):
    named = {name for row in each.doc["Raises"] for name in re.findall(r"\w+", row.type or row.name)}
    assert all(issubclass(getattr(builtins, name), BaseException) for name in named)
    assert all(row.desc for row in each.doc["Raises"])
    assert each.raised <= named, f"raised, and not listed: {each.raised - named}"


@every(PUBLIC)
def test_arrays_have_shapes(each):
    for name, kind in each.parameters.items():
        text = each.described.get(name.lstrip("*"), "")
        if ARRAYS.search(kind) and name not in ("labels", "groups") and each.name not in MADE_BY_OTHERS:
            assert SHAPE.search(text) or REFERENCE.search(text), f"{name}: {text}"
    if ARRAYS.search(each.returns):
        rows = [*each.doc["Returns"], *each.doc["Yields"]]
        text = " ".join(" ".join([row.type, *row.desc]) for row in rows) or prose(each)
        assert SHAPE.search(text) or REFERENCE.search(text), text
    if each.returns == "pd.DataFrame" and not (each.is_property or each.is_short):
        text = " ".join(" ".join(row.desc) for row in each.doc["Returns"])
        assert re.search(r"\b[Rr]ows?\b|layer map|[Cc]olumns|\bAs of\b|The table that", text), text


@every(PUBLIC)
def test_numbers_have_units(each):
    for name, kind in each.parameters.items():
        if name in UNITS and NUMBER.fullmatch(kind) and each.name not in MADE_BY_OTHERS:
            text = each.described[name]
            assert re.search(UNITS[name], text, re.IGNORECASE) or REFERENCE.search(text), f"{name}: {text}"


def resolves(name: str, each: Documented) -> bool:
    """Whether a name of See Also leads somewhere: a public name, a method, a name with its module, a library's."""
    face, *_, last = each.name.split(".")
    listed = {word for names in (*FACES.values(), FOLDERS) for row in names.values() for word in row.split()}
    parts = {part for other in PUBLIC for part in [other.name.partition(".")[2]]}
    beside = {f"{face}.{each.name.split('.')[1]}.{name}"} & set(BY_NAME) if each.owner else set()
    if name in listed or name in parts or beside:
        return name != last or bool(each.owner)
    if name.startswith("bridgework."):
        return exists(name)
    library, _, attribute = name.rpartition(".")
    return bool(library) and hasattr(import_module(library), attribute)


@every(PUBLIC)
def test_see_also_gives_a_reason_for_each_name(each):
    rows = each.doc["See Also"]
    assert rows or each.owner, "no section See Also"
    for names, reason in rows:
        words = " ".join(reason).split()
        assert len(words) >= 4, f"{names} without a reason"
        assert words[0][0].isupper() and words[-1].endswith("."), f"no sentence: {' '.join(words)}"
        assert not [name for name, _role in names if not resolves(name, each)], names


@pytest.mark.parametrize("name", SOURCES)
def test_published_methods_name_their_source(name):
    assert PUBLISHED.search(prose(BY_NAME[name]))


@pytest.mark.parametrize(
    ("name", "words"),
    [("probes.similarity", METRICS), ("probes.choose_bridges", {**RULES, **FIXED}), ("probes.BridgePlan", LAYOUTS)],
    ids=["metrics", "rules", "layouts"],
)
def test_every_metric_rule_and_layout_is_explained_where_it_is_chosen(name, words):
    assert not [word for word in words if not re.search(rf"\b{word}\b", BY_NAME[name].text)]


@every([each for each in TOP if not each.is_class and each.name.split(".")[0] != "studies"])
def test_functions_have_an_example(each):
    assert each.doc["Examples"]
