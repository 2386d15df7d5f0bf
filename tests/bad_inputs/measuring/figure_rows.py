"""Bad inputs of figures, of what is written of them, and of the explorer."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bridgework import figures
from bridgework.tests.bad_inputs.frame import rows_of
from bridgework.tests.bad_inputs.good_inputs import array, curve, features, heat, layers, plan, plan_file
from bridgework.tests.bad_inputs.measuring.curve_rows import changed, turned

LOG = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "name": "mine"})
SHARES = pd.DataFrame({"plan": ["a", "a"], "seed": [0, 0], "score": [0.1, 0.2], "share": [0.1, 0.2]})
RANKS = pd.DataFrame({"layer": ["0"], "depth": [1.0], "effective_rank": [2.0]})
OUTCOMES = {"score": "score"}
PICTURE = np.zeros((4, 4, 3), np.uint8)


def drawn():
    return figures.layer_map(heat())


def plain():
    """A figure that is nobody's."""
    return plt.figure()


def tables(**others):
    """The three tables of `causal_evidence`, one of them as a number."""
    return figures.causal_evidence(**{"attribution": 3, "attention": 3, "conflict": 3} | others)


def drawn_again() -> None:
    drawing = figures.paper("cvpr")
    for _ in range(2):
        with drawing:
            pass


ROWS = [
    *rows_of(
        "alignment_curves",
        ("a path", lambda: figures.alignment_curves("curve.csv"), ["alignment_curves", "DataFrame"], "type"),
        ("a number as a title", lambda: figures.alignment_curves(curve(), 3), ["title is 3", "a text"], "type"),
        ("half a character", lambda: figures.alignment_curves(curve(), "a \ud83d"), ["title", "UTF-8"], "content"),
        ("overlay as a text", lambda: figures.alignment_curves(curve(), overlay="no"), ["overlay is 'no'"], "type"),
        ("an empty table", lambda: figures.alignment_curves(pd.DataFrame()), ["missing columns"], "shape"),
        ("no rows", lambda: figures.alignment_curves(curve().iloc[:0]), ["no rows"], "shape"),
        ("scores of texts", lambda: figures.alignment_curves(changed(curve(), score="x")), ["'score'"], "content"),
        ("infinite scores", lambda: figures.alignment_curves(changed(curve(), score=np.inf)), ["'score'"], "finite"),
        ("axes that are none", lambda: figures.alignment_curves(curve(), ax=3), ["matplotlib Axes", "int"], "type"),
        ("one curve twice", lambda: figures.alignment_curves(pd.concat([curve()] * 2)), ["several scores"], "conflict"),
    ),
    *rows_of(
        "before_after",
        ("a number", lambda: figures.before_after(3, curve()), ["before_after", "DataFrame"], "type"),
        ("no rows", lambda: figures.before_after(curve(), curve().iloc[:0]), ["no rows"], "shape"),
    ),
    *rows_of(
        "layer_map",
        ("an array", lambda: figures.layer_map(array()), ["layer_map", "DataFrame"], "type"),
        ("a map on its side", lambda: figures.layer_map(turned()), ["transposed", "rows"], "shape"),
        ("a map of texts", lambda: figures.layer_map(changed(heat().astype(str))), ["no finite numbers"], "content"),
        ("no maps", lambda: figures.layer_map({}), ["no maps"], "shape"),
        ("a path as a plan", lambda: figures.layer_map(heat(), plan_file()), ["plan is", "BridgePlan.load"], "type"),
        (
            "a map without its attrs",
            lambda: figures.layer_map(pd.DataFrame([[0.5]])),
            ["attrs lacks metric"],
            "content",
        ),
    ),
    *rows_of(
        "causal_evidence",
        ("a number", lambda: tables(), ["causal_evidence", "expected a pandas.DataFrame"], "type"),
        ("a curve", lambda: tables(attribution=curve()), ["missing columns method"], "shape"),
    ),
    *rows_of(
        "companions",
        ("a table alone", lambda: figures.companions(RANKS), ["tables is", "effective rank"], "type"),
        ("an unknown table", lambda: figures.companions({"rank": RANKS}), ["unknown table 'rank'"], "name"),
        ("no tables", lambda: figures.companions({}), ["no tables"], "shape"),
    ),
    *rows_of(
        "explorer",
        (
            "both modalities",
            lambda: figures.explorer(features(), layers()),
            ["understanding features"],
            "type",
            ValueError,
        ),
        ("a name of stimuli", lambda: figures.explorer(layers(), layers(), "noto"), ["stimuli is 'noto'"], "type"),
        ("an unknown metric", lambda: figures.explorer(layers(), layers(), metric="cca"), ["nearest is"], "name"),
        ("a k of 0", lambda: figures.explorer(layers(), layers(), k=0), ["k is 0"], "range"),
        ("an array as a map", lambda: figures.explorer(layers(), layers(), maps=[array()]), ["map 0 is"], "type"),
        ("an unknown field", lambda: figures.explorer(layers(), layers(), rnk=3), ["nearest is 'rank'"], "name"),
    ),
    *rows_of(
        "write_gallery",
        ("no figures", lambda here: figures.write_gallery(here), ["no figures", "at least one"], "missing"),
        ("a number", lambda: figures.write_gallery(3), ["folder is 3", "a path"], "type"),
        ("a figure alone", lambda here: figures.write_gallery(here, [plain()]), ["expected (name, figure"], "type"),
        (
            "tables that are a list",
            lambda here: figures.write_gallery(here, [], tables=[RANKS]),
            ["tables is"],
            "type",
        ),
    ),
    *rows_of(
        "gap_closed",
        ("a number", lambda: figures.gap_closed(3), ["gap_closed", "DataFrame"], "type"),
        ("one seed twice", lambda: figures.gap_closed(SHARES), ["'a' has seed 0 twice"], "conflict"),
        ("shares of texts", lambda: figures.gap_closed(changed(SHARES, share="x")), ["'share'"], "content"),
    ),
    *rows_of(
        "layouts_compared",
        ("a list", lambda: figures.layouts_compared([1]), ["layouts_compared", "DataFrame"], "type"),
        ("a curve", lambda: figures.layouts_compared(curve()), ["missing columns"], "shape"),
    ),
    *rows_of(
        "learning_curves",
        ("a path", lambda: figures.learning_curves("log.csv"), ["learning_curves", "DataFrame"], "type"),
        ("losses of texts", lambda: figures.learning_curves(changed(LOG, loss="x")), ["'loss'"], "content"),
    ),
    *rows_of(
        "live_curve",
        ("a number", lambda: figures.live_curve(3), ["log is 3", "a list"], "type"),
        ("an empty text", lambda: figures.live_curve(""), ["log is ''", "a list"], "type"),
        ("numbers as lines", lambda: figures.live_curve([1, 2]), ["a line of the log is 1"], "type"),
        ("lines without losses", lambda: figures.live_curve([{"step": 1}]), ["missing columns loss"], "shape"),
    ),
    *rows_of(
        "model_matrix",
        ("nothing", lambda: figures.model_matrix(None), ["model_matrix", "DataFrame"], "type"),
        ("a curve", lambda: figures.model_matrix(curve().drop(columns="score")), ["missing columns"], "shape"),
    ),
    *rows_of(
        "architecture",
        ("a path", lambda: figures.architecture(plan_file()), ["plan is", "BridgePlan.load"], "type"),
        ("one name", lambda: figures.architecture(plan(), "Qwen"), ["names is 'Qwen'", "of 2"], "type"),
    ),
    *rows_of(
        "architectures",
        ("a plan alone", lambda: figures.architectures(plan()), ["plans is", "a list of plans"], "type"),
        ("no plans", lambda: figures.architectures([]), ["no plans"], "shape"),
        ("paths", lambda: figures.architectures([plan_file()]), ["plan 0 is", "BridgePlan.load"], "type"),
    ),
    *rows_of(
        "plan_outcomes",
        ("an array", lambda: figures.plan_outcomes(array(), SHARES, plan()), ["plan_outcomes", "DataFrame"], "type"),
        ("a path as a plan", lambda: figures.plan_outcomes(heat(), SHARES, plan_file()), ["plan is"], "type"),
    ),
    *rows_of(
        "caption",
        ("a path", lambda: figures.caption("a.pdf"), ["figure is 'a.pdf'", "bridgework.figures"], "type"),
        ("a figure of others", lambda: figures.caption(plain()), ["not drawn by bridgework.figures"], "content"),
        ("a number as text", lambda: figures.caption(drawn(), 3), ["first is 3", "a text"], "type"),
    ),
    *rows_of(
        "latex_table",
        ("an unknown column", lambda: figures.latex_table(drawn(), columns=["x"]), ["no column 'x'"], "name"),
        ("digits below 0", lambda: figures.latex_table(drawn(), decimals=-1), ["decimals is -1"], "range"),
        ("a column alone", lambda: figures.latex_table(drawn(), columns="score"), ["columns is 'score'"], "type"),
    ),
    *rows_of(
        "letter_panels",
        ("nothing", lambda: figures.letter_panels(None), ["figure is None"], "type"),
        ("numbers as axes", lambda: figures.letter_panels(plain(), [3]), ["panel 0 of axes is 3"], "type"),
    ),
    *rows_of(
        "numbers_of",
        ("a table", lambda: figures.numbers_of(curve()), ["figure is", "bridgework.figures"], "type"),
        ("a figure of others", lambda: figures.numbers_of(plain()), ["not drawn by bridgework.figures"], "content"),
    ),
    *rows_of(
        "save",
        ("a table", lambda here: figures.save(curve(), here / "a.pdf"), ["a matplotlib Figure"], "type"),
        ("a path with a zero byte", lambda: figures.save(drawn(), "a\0b"), ["path is", "zero byte"], "content"),
        (
            "half of a character",
            lambda: figures.save(drawn(), "\ud800.pdf"),
            ["path is", "half of a character"],
            "content",
        ),
        ("an unknown format", lambda here: figures.save(drawn(), here / "a.jpg"), ["unknown format '.jpg'"], "name"),
        ("a folder", lambda here: figures.save(drawn(), here), ["is a folder", "name a file"], "file"),
        ("a number as a path", lambda: figures.save(drawn(), 3), ["path is 3", "a path"], "type"),
        ("no dots", lambda here: figures.save(drawn(), here / "a.pdf", dpi=0), ["dpi is 0"], "range"),
        ("endless dots", lambda here: figures.save(drawn(), here / "a.pdf", dpi=np.inf), ["dpi is inf"], "finite"),
        (
            "a record that JSON has not",
            lambda here: figures.save(drawn(), here / "a.pdf", provenance={"a": plan()}),
            ["provenance= holds what JSON has not"],
            "content",
            TypeError,
        ),
    ),
    *rows_of(
        "paper",
        (
            "a drawing that ended",
            drawn_again,
            ["this paper was left before", "call paper again"],
            "conflict",
            RuntimeError,
        ),
        ("an unknown venue", lambda: figures.paper("cvrp"), ["unknown venue", "nearest is 'cvpr'"], "name"),
        ("three columns", lambda: figures.paper("cvpr", 3), ["columns is 3"], "range"),
        ("a width of NaN", lambda: figures.paper("cvpr", width=np.nan), ["width is nan"], "finite"),
        ("letters as a text", lambda: figures.paper("cvpr", letters="no"), ["letters is 'no'"], "type"),
    ),
    *rows_of(
        "rule_correlations",
        ("a list", lambda: figures.rule_correlations([1]), ["rule_correlations", "DataFrame"], "type"),
        ("a curve", lambda: figures.rule_correlations(curve()), ["missing columns rule"], "shape"),
    ),
    *rows_of(
        "sample_grid",
        ("no images", lambda: figures.sample_grid([], [], []), ["0 images", "at least one"], "shape"),
        ("one text", lambda: figures.sample_grid([PICTURE], "a", [True]), ["captions is a str"], "type"),
        (
            "a verdict that is nothing",
            lambda: figures.sample_grid([PICTURE], ["a"], [None]),
            ["verdict 0 is None"],
            "type",
        ),
        (
            "an array without an axis",
            lambda: figures.sample_grid([PICTURE], np.array(3), [True]),
            ["captions is"],
            "shape",
            TypeError,
        ),
        ("a number as a caption", lambda: figures.sample_grid([PICTURE], [3], [True]), ["caption 0 is 3"], "type"),
        ("texts as images", lambda: figures.sample_grid(["a.png"], ["a"], [True]), ["image 0 is no picture"], "type"),
        ("one caption less", lambda: figures.sample_grid([PICTURE] * 2, ["a"], [True]), ["as many of each"], "shape"),
    ),
    *rows_of(
        "layout_outcomes",
        ("a path", lambda: figures.layout_outcomes("layouts.csv", OUTCOMES), ["layout_outcomes", "DataFrame"], "type"),
        (
            "outcomes as a text",
            lambda: figures.layout_outcomes(curve(), "worth"),
            ["outcomes is 'worth'", "a Mapping"],
            "type",
        ),
        ("a curve", lambda: figures.layout_outcomes(curve(), OUTCOMES), ["missing columns layout"], "shape"),
    ),
    *rows_of(
        "quality_against_compute",
        ("a list", lambda: figures.quality_against_compute([1]), ["quality_against_compute", "DataFrame"], "type"),
    ),
    *rows_of(
        "outcome_sweep",
        ("outcomes as a number", lambda: figures.outcome_sweep(curve(), "rank", 3, "rank"), ["outcomes is 3"], "type"),
        (
            "nothing",
            lambda: figures.outcome_sweep(None, "rank", OUTCOMES, "rank"),
            ["outcome_sweep", "DataFrame"],
            "type",
        ),
    ),
    *rows_of(
        "edit_grid",
        ("a list", lambda: figures.edit_grid([PICTURE]), ["edit_grid", "DataFrame"], "type"),
        ("a curve", lambda: figures.edit_grid(curve()), ["missing columns"], "shape"),
        ("a number to compare by", lambda: figures.edit_grid(curve(), by=3), ["edit_grid, by is 3", "text"], "type"),
    ),
    *rows_of(
        "worth_maps",
        ("numbers", lambda: figures.worth_maps(1, 2, 3), ["worth_maps, worths", "DataFrame"], "type"),
        ("a curve", lambda: figures.worth_maps(curve(), curve(), curve()), ["missing columns"], "shape"),
    ),
]
