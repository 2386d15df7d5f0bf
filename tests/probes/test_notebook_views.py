"""What a cell shows that ends with stimuli, features, a subject or a plan: shapes and drawings, nothing read for it."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
import tqdm.notebook
from PIL import Image

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.notebook_views import SHOWN, Html, SubjectView, plan_drawing, table_view, thumbnails
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.tests.test_architecture import SOURCES

from .toys import TEXTS, Toy, letters, open_toy


def test_names_and_values_are_escaped_and_html_is_not():
    shown = table_view("a < b", {"<i>": "&", "drawn": Html("<svg/>")})
    assert "a &lt; b" in shown and "&lt;i&gt;" in shown and "&amp;" in shown and "<svg/>" in shown


def test_stimuli_show_the_first_few_images_and_read_no_more():
    read = []

    def image(number: int) -> Image.Image:
        read.append(number)
        return Image.new("RGB", (200, 100), (number, 0, 0))

    shown = thumbnails((image(n), f"text <{n}>") for n in range(100))
    assert read == list(range(SHOWN)) and shown.count("<img ") == SHOWN
    assert "text &lt;0&gt;" in shown and len(shown) < 20_000
    stimuli = Stimuli([Stimulus(Image.new("RGB", (4, 4)), "long " * 20, "a")], "mine")
    assert stimuli._repr_html_().startswith("<div><strong>mine: 1 stimuli, digest ")
    assert "…" in stimuli._repr_html_()


def test_features_say_their_shapes_without_being_read(tmp_path):
    extract(open_toy(), letters(*TEXTS), store=tmp_path / "store")
    features = Features.load(tmp_path / "store")
    shown = features._repr_html_()
    assert "(layer, sample, dim) = (4, 10, 6), float32" in shown and "on disk, read when used" in shown
    assert "image of toy" in shown and "text of toy" in shown and "separate pass" in shown
    assert "values" not in vars(features["image"])
    assert "in memory" in extract(open_toy(), letters(*TEXTS))._repr_html_()


def test_a_sweep_names_its_timesteps():
    toy = Toy(open_toy().model, timed_tasks=("understanding",))
    shown = extract(toy, letters(*TEXTS), timesteps=(0.2, 0.8))["image"]._repr_html_()
    assert "(timestep, layer, sample, dim) = (2, 4, 10, 6)" in shown and "0.2, 0.8" in shown


def test_a_subject_says_its_model_blocks_and_weights():
    class Shown(SubjectView, Toy):
        pass

    shown = Shown(open_toy().model)._repr_html_()
    assert "Stack" in shown and "3, layers.0 to layers.2" in shown and "140 in float32 on cpu" in shown


@pytest.mark.parametrize(("understanding", "generation"), [(16, 13), (6, 30)])
def test_a_plan_is_drawn_with_a_line_for_each_bridge(understanding, generation):
    plan = choose_bridges(bridges=4, layers=(understanding, generation))
    assert "4 bridges, layout H" in plan._repr_html_() and "none, a fixed plan" in plan._repr_html_()
    drawn = ElementTree.fromstring(plan_drawing(plan.pairs, understanding, generation))
    kinds = [re.sub(r"\{.*\}", "", part.tag) for part in drawn]
    assert kinds.count("line") == 4 and kinds.count("circle") == understanding + generation
    height = float(drawn.attrib["height"])
    assert all(0 < float(part.attrib["cy"]) < height for part in drawn if part.tag.endswith("circle"))
    assert "<svg" in plan._repr_html_()


def test_progress_bars_are_of_the_kind_that_a_notebook_shows():
    """tqdm's own class with `disable=None` is silent in a kernel, whose stderr is no terminal; tqdm.auto asks first."""
    imported = re.compile(r"^from (tqdm[\w.]*) import tqdm$", re.MULTILINE)
    found = {module: set(imported.findall(file.read_text("utf-8"))) for module, file in SOURCES.items()}
    bars = {module: kinds for module, kinds in found.items() if kinds}
    assert len(bars) > 10 and all(kinds == {"tqdm.auto"} for kinds in bars.values()), bars


def test_a_bar_that_asks_for_a_terminal_is_on_in_a_notebook():
    options: dict[str, Any] = {"disable": None, "display": False}
    bar = tqdm.notebook.tqdm(range(2), **options)
    assert not bar.disable
    bar.close()
