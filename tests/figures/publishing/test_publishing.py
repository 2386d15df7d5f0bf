"""Figures of a paper: they fit the page, embed their fonts, and carry their numbers and where these come from."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bridgework import figures
from bridgework.figures.publishing.line_names import apart
from bridgework.figures.publishing.page import VENUES, Page, current_page
from bridgework.probes.plans.bridge_plan import BridgePlan

DEPTH = np.linspace(0, 1, 5)
LAYOUTS = ("shared", "Y", "H", "dense", "double fusion")
NO_FIGURES = {
    "Explorer",
    "Entry",
    "caption",
    "explorer",
    "latex_table",
    "letter_panels",
    "numbers_of",
    "paper",
    "save",
    "write_gallery",
}


@pytest.fixture(autouse=True)
def screen():
    yield
    assert current_page() is None


@pytest.fixture
def drawings(curve, make_heat, make_plan):
    """Every public figure on small data, by name."""
    vlm, dit = "scenes-vlm", "scenes-dit"
    curves = pd.concat([
        curve(vlm), curve(dit, "generation", 16, 0.2), curve(dit, "generation", 16, 0.8, lift=0.11),
        *(curve(vlm, control=control, lift=0.01) for control in ("random weights", "pixel mean x bag of words")),
    ])  # fmt: skip
    after = curves.assign(score=curves.score + 0.01)
    each = {"samples": 12, "timestep": None, "depth": DEPTH, "low": 0.1, "high": 0.4}
    subjects = (vlm, dit)
    attribution = pd.concat([
        pd.DataFrame({**each, "subject": s, "method": m, "modality": w, "attribution": DEPTH, "gain": 2.0})
        for s in subjects for m in ("ablation", "conductance", "integrated_gradients") for w in ("image", "text")
    ])  # fmt: skip
    attention = pd.concat([
        pd.DataFrame({**each, "subject": s, "query": q, "key": k, "mass": 0.3, "expected": 0.5})
        for s in subjects for q, k in (("text", "image"), ("image", "text"))
    ])  # fmt: skip
    conflict = pd.concat([
        pd.DataFrame({**each, "subject": s, "tasks": "asked of images x asked of captions", "conflict": 0.2})
        for s in subjects
    ]).assign(batches=12)  # fmt: skip
    shares = pd.DataFrame(
        [(plan, seed, 0.3, 0.3 + seed / 10) for plan in ("alignment", "shallow", "random") for seed in range(3)],
        columns=["plan", "seed", "score", "share"],
    )
    layouts = pd.DataFrame(
        [(layout, 60_000, 0.2, 0.1 + place / 50, 0.2, 0.03, 0.05) for place, layout in enumerate(LAYOUTS)],
        columns=["layout", "parameters", "step_seconds", "loss", "shuffled", "low", "high"],
    )
    log = pd.DataFrame({"step": range(60), "loss": np.geomspace(2, 0.05, 60), "name": "alignment"})
    log = pd.concat([log, log.assign(name="shuffled captions", loss=log.loss * 1.02)])
    plans = [
        BridgePlan(
            pairs=tuple((i, i) for i in range(12 if layout == "shared" else 6)), layout=layout, stream="image",
            understanding_layers=12, generation_layers=12, rule="alignment", evidence={},
        )
        for layout in LAYOUTS
    ]  # fmt: skip
    stacks = {
        "x": {"subject": vlm, "modality": "text"}, "y": {"subject": dit, "modality": "image", "timestep": 0.5},
    }  # fmt: skip
    heat, plan, ends = make_heat(**stacks), make_plan(), shares.assign(floor=0.0125, ceiling=0.7833)
    blocks = [(u, g) for u in (0, 5, 11) for g in (0, 4)]
    worths = pd.DataFrame([("a x b", u, g, 0.1 * u - g / 100) for u, g in blocks])
    worths.columns = ["pair", "understanding", "generation", "worth"]
    rules = ("alignment, mutual_knn", "complementarity", "gradient_conflict", "descent", "depth")
    maps = pd.concat([worths.rename(columns={"worth": "gain"}).assign(rule=rule) for rule in rules[:4]])
    ranks = pd.DataFrame([(rule, pair, 0.4, 0.2, 0.9, 0.8) for rule in rules for pair in ("a x b", "c x d")])
    ranks.columns = ["rule", "pair", "rho", "partial", "ceiling", "partial_ceiling"]
    pairs = [("dinov2-s", "minilm-l6"), ("dinov2-s", "smollm2-135m"), ("minilm-l6", "smollm2-135m")]
    matrix = pd.DataFrame([
        {
            "subject": one, "modality": "image", "layer": "7", "reference": other, "reference_modality": "text",
            "reference_layer": "11", "metric": "mutual_knn", "k": 10, "samples": 512, "score": 0.1 + place / 10,
            "chance": 0.02, "p": 0.005 + place / 10,
        }
        for place, (one, other) in enumerate(pairs)
    ]).assign(reference_modality=["text", "text", "text"], modality=["image", "image", "text"])  # fmt: skip
    ranks_of = pd.DataFrame({"layer": range(12), "depth": np.linspace(0, 1, 12), "effective_rank": 4.0})
    companions = {"effective rank": ranks_of.assign(side="understanding", modality="image", samples=128)}
    reached = pd.DataFrame([
        {"layout": layout, "pair": pair, "seeds": 5, "score": 0.3 + place / 20, "loss": 0.07 - place / 500}
        for place, layout in enumerate(LAYOUTS) for pair in ("a x b", "c x d")
    ])  # fmt: skip
    for outcome in ("score", "loss"):
        spans = {f"{outcome}_low": reached[outcome] - 0.02, f"{outcome}_high": reached[outcome] + 0.02}
        reached = reached.assign(**spans)
    computed = reached.drop_duplicates("layout").rename(columns={"layout": "name"})
    families = np.where(computed["name"].isin(["shared", "Y", "X"]), "one trunk", "two towers")
    computed = computed.assign(family=families, flops=np.geomspace(1e15, 1e17, len(computed)))
    swept = computed.assign(fork=range(len(computed)))
    pictures = [np.full((8, 8, 3), 30 * place, dtype=np.uint8) for place in range(5)]
    Image.fromarray(pictures[0]).save(stream := BytesIO(), "PNG")
    edited = pd.DataFrame({"kind": "swap", "instruction": "swap the purple triangle and the black square",
        "change": [1, 0, 1, 1, 0], "stay_objects": 1.0, "stay_pixels": 0.25, "success": [0, 0, 1, 1, 0],
        "source_png": stream.getvalue(), "result_png": stream.getvalue()})  # fmt: skip
    return {
        "alignment_curves": lambda: figures.alignment_curves(curves),
        "before_after": lambda: figures.before_after(curves, after),
        "causal_evidence": lambda: figures.causal_evidence(attribution, attention, conflict),
        "companions": lambda: figures.companions(companions),
        "gap_closed": lambda: figures.gap_closed(shares),
        "layouts_compared": lambda: figures.layouts_compared(layouts),
        "learning_curves": lambda: figures.learning_curves(log),
        "live_curve": lambda: figures.live_curve(
            [{"step": s, "loss": 2 - s / 9, "validation_loss": 1} for s in range(9)]
        ),
        "layer_map": lambda: figures.layer_map(heat, plan),
        "model_matrix": lambda: figures.model_matrix(matrix),
        "architecture": lambda: figures.architecture(plans[2]),
        "architectures": lambda: figures.architectures(plans),
        "plan_outcomes": lambda: figures.plan_outcomes(heat, ends, plan),
        "sample_grid": lambda: figures.sample_grid(pictures, ["two green squares left of a triangle"] * 5, [True] * 5),
        "edit_grid": lambda: figures.edit_grid(edited),
        "layout_outcomes": lambda: figures.layout_outcomes(
            reached, {"score": "facts that hold", "loss": "velocity loss"}, {"score": {"floor": 0.2, "ceiling": 0.9}}
        ),
        "quality_against_compute": lambda: figures.quality_against_compute(computed),
        "outcome_sweep": lambda: figures.outcome_sweep(
            swept, "fork", {"score": "facts that hold", "loss": "loss"}, "shared blocks", {"divergence": (3, 2, 5)}
        ),
        "rule_correlations": lambda: figures.rule_correlations(ranks),
        "worth_maps": lambda: figures.worth_maps(worths, maps, ranks),
    }


# The page


def page() -> Page:
    found = current_page()
    assert found
    return found


def test_a_paper_that_was_left_is_not_entered_again():
    drawing = figures.paper("cvpr")
    with drawing:
        pass
    with pytest.raises(RuntimeError, match=r"this paper was left before, .*: call paper again"), drawing:
        pass


def test_widths_are_the_venues_and_only_two_differ_in_one_column():
    pages = {}
    for venue, widths in VENUES.items():
        for columns, width in enumerate(widths, 1):
            with figures.paper(venue, columns):
                pages[venue, columns] = page()
                assert page().width == width == plt.rcParams["figure.figsize"][0]
    assert [pages[venue, 1].width for venue in ("cvpr", "icml", "neurips", "iclr")] == [3.25, 3.25, 5.5, 5.5]
    assert [pages[venue, 2].width for venue in ("cvpr", "icml", "neurips", "iclr")] == [6.875, 6.75, 5.5, 5.5]
    for one, other in (("cvpr", "icml"), ("neurips", "iclr")):  # so one of each pair stands for both below
        assert pages[one, 1].settings == pages[other, 1].settings


@pytest.mark.parametrize("venue", ["cvpr", "iclr"])
def test_nothing_is_cut_off_and_no_texts_lie_on_each_other(drawings, venue, assert_readable):
    assert set(drawings) == set(dir(figures)) - NO_FIGURES
    for name, draw in drawings.items():
        with figures.paper(venue, letters=True):
            figure = draw()
        assert figure.get_figwidth() == VENUES[venue][0], name
        assert figure.get_figheight() < 8.875, name
        parts = [figure, *figure.subfigs]
        artists = [*figure.axes, *(each for part in parts for each in (*part.legends, *part.texts))]
        for artist in artists:
            box, edge = artist.get_tightbbox(), figure.bbox
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= edge.x1 + 1 and box.y1 <= edge.y1 + 1, (name, artist)
        try:
            assert_readable(figure)
        except AssertionError as error:
            pytest.fail(f"{name}: {error}")
        plt.close(figure)


def test_paper_is_undone_by_with_and_by_close():
    before = dict(mpl.rcParams)
    held = figures.paper("icml")
    assert mpl.rcParams["font.family"][0] == "STIXGeneral"
    with figures.paper("neurips", width=2.7):
        assert page().width == 2.7
    assert page().venue == "icml"
    held.close()
    assert dict(mpl.rcParams) == before


def test_pages_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="unknown venue 'acl': expected one of cvpr, icml, neurips, iclr"):
        figures.paper("acl")
    with pytest.raises(ValueError, match="columns is 3: expected 1 "):
        figures.paper("cvpr", columns=3)
    with pytest.raises(ValueError, match=r"width is 7 inches: expected 2 to 6\.75, the width of the text of icml"):
        figures.paper("icml", width=7)


# Panels


def test_models_stand_on_one_axis_with_their_names_where_they_end(curve, assert_readable, words):
    curves = pd.concat([curve("small"), curve("large", lift=0.1001), curve("dit", "generation", 16, 0.5)])
    figure = figures.alignment_curves(curves, overlay=True)
    (ax,) = figure.axes
    lines = {tuple(line.get_ydata()): line.get_color() for line in ax.lines if line.get_marker() == "o"}
    for subject, rows in curves.groupby("subject"):
        (name,) = (text for text in ax.texts if text.get_text() == subject)
        assert lines[tuple(rows.score)] == name.get_color()
        assert name.xy == (1, rows.score.iloc[-1])
    assert_readable(figure)  # two of the lines end at the same height
    other = figures.alignment_curves(pd.concat([curve("small"), curve("large", samples=64)]), overlay=True)
    assert len(other.axes) == 2 and "N = 64" in words(other)


def test_figures_of_one_panel_draw_into_the_callers_axes(curve, make_heat, drawings):
    log = pd.DataFrame({"step": range(9), "loss": np.linspace(1, 2, 9), "name": "a"})
    with figures.paper("cvpr", columns=2):
        figure, (left, middle, right) = plt.subplots(1, 3)
        assert figures.alignment_curves(curve(), ax=left) is figure
        assert figures.layer_map(make_heat(), ax=middle) is figure
        assert figures.learning_curves(log, ax=right) is figure
        figures.letter_panels(figure)
    assert [ax.get_title(loc="left") for ax in (left, middle, right)] == [
        "(a) scenes-vlm: understanding", "(b) layer map", "(c)",
    ]  # fmt: skip
    numbers = figures.numbers_of(figure)
    assert list(numbers.panel.unique()) == [1, 2, 3] and set(numbers.table) == {"curves", "map", "log"}
    with pytest.raises(ValueError, match="have letters already"):
        figures.letter_panels(figure)
    with pytest.raises(ValueError, match="the curves need 2 panels, and ax= is one: pass overlay=True"):
        figures.alignment_curves(pd.concat([curve(), curve("other")]), ax=left)
    with pytest.raises(TypeError, match="learning_curves: expected one matplotlib Axes as ax=, got ndarray"):
        figures.learning_curves(log, ax=np.array([left]))


def test_names_move_no_further_than_they_must():
    assert apart([0, 1, 9], [2, 2, 2]) == [-0.5, 1.5, 9]
    places = apart([0, 0.1, 0.2, 1.9], [1, 1, 1, 1])
    assert np.diff(places) == pytest.approx([1, 1, 1]) and np.mean(places) == pytest.approx(0.55)


# Files


def test_fonts_are_true_type_also_where_a_figure_is_saved_plainly(drawings, tmp_path):
    figure = drawings["alignment_curves"]()
    with mpl.rc_context({"pdf.fonttype": 3, "svg.fonttype": "path"}):
        for name in ("plain.pdf", "plain.svg"):
            figure.savefig(tmp_path / name)
        figures.save(figure, tmp_path / "saved.pdf")
    for name in ("plain.pdf", "saved.pdf"):
        pdf = (tmp_path / name).read_bytes()
        assert b"/Type3" not in pdf and b"/Subtype /CIDFontType2" in pdf and b"/FontFile2" in pdf
    assert re.search(r"<text[^>]*>alignment score</text>", (tmp_path / "plain.svg").read_text())


def test_a_saved_figure_has_its_numbers_and_provenance_and_the_same_bytes_again(drawings, curve, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    with figures.paper("cvpr"):
        figure = drawings["layer_map"]()
        written = figures.save(figure, first / "map", provenance={"commit": "1a2b"})
        figures.save(drawings["layer_map"](), again / "map", provenance={"commit": "1a2b"})
    assert [path.name for path in written] == ["map.pdf", "map.svg", "map.png", "map.csv", "map.json"]
    for path in written:
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    figures.save(figure, again / "map.svg", provenance={"commit": "1a2b"})  # outside the page, a second time
    assert (again / "map.svg").read_text().split("</metadata>")[1] == (first / "map.svg").read_text().split(
        "</metadata>"
    )[1]
    record = json.loads((first / "map.json").read_text())
    (call,) = record["drawn"]
    assert call["function"] == "layer_map" and call["options"]["plan"]["pairs"] == [[4, 5], [6, 7], [8, 9]]
    assert call["tables"]["map"]["attrs"]["k"] == 10 and record["provenance"] == {"commit": "1a2b"}
    assert record["page"]["venue"] == "cvpr" and record["page"]["inches"][0] == 3.25
    assert record["numbers"]["sha256"] == sha256((first / "map.csv").read_bytes()).hexdigest()
    with Image.open(first / "map.png") as png:
        assert json.loads(png.info["Source"]) == record and png.width == 975
    keywords = re.search(rb"/Keywords \((.*?)(?<!\\)\)\s*>?>?", (first / "map.pdf").read_bytes(), re.DOTALL)
    assert keywords
    assert json.loads(re.sub(rb"\\([()\\])", rb"\1", keywords[1])) == record
    cells = pd.read_csv(first / "map.csv")
    assert len(cells) == 13 * 17 and cells.value.iloc[-1] == pytest.approx(220 / 221)


def test_numbers_are_those_that_were_drawn(drawings, curve):
    table = curve(timestep=0.5, draws="[]")
    numbers = figures.numbers_of(figures.alignment_curves(table))
    kept = table.drop(columns="draws")
    pd.testing.assert_frame_equal(numbers[list(kept)], kept, check_dtype=False)
    assert "draws" not in numbers and set(numbers.control) == {"none"}
    both = figures.numbers_of(drawings["plan_outcomes"]())
    assert both.table.value_counts().to_dict() == {"map": 221, "shares": 9}


def test_what_cannot_be_saved_is_named(drawings, tmp_path):
    figure = plt.figure()
    with pytest.raises(ValueError, match="nothing is known of its numbers: pass numbers="):
        figures.save(figure, tmp_path / "own.pdf")
    with pytest.raises(ValueError, match=r"unknown format '\.eps': expected \.pdf, \.svg, \.png"):
        figures.save(figure, tmp_path / "own.eps")
    with pytest.raises(TypeError, match="provenance= holds what JSON has not"):
        figures.save(drawings["learning_curves"](), tmp_path / "own.pdf", provenance={"when": object()})
    assert not list(tmp_path.iterdir())
    for content in ('{"pairs": [[0, 1]]}', "[1]", "no JSON"):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(ValueError, match=r"plan\.json is there and is no figure's record, which"):
            figures.save(drawings["learning_curves"](), tmp_path / "plan.pdf")
        assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
        assert (tmp_path / "plan.json").read_text() == content
    own = pd.DataFrame({"x": [1, 2]})
    figures.save(figure, tmp_path / "own.pdf", numbers=own)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "own.csv"), own)


# LaTeX


def test_captions_and_tables_are_latex_of_the_same_numbers(curve):
    table = pd.concat([curve("my_model$50%"), curve("other", "generation", timestep=0.5)])
    figure = figures.alignment_curves(table)
    text = figures.caption(figure, r"\textbf{Ours.}", label="fig:a")
    assert text.startswith(r"\caption{\textbf{Ours.} Alignment score") and text.endswith("}\n\\label{fig:a}")
    assert r"my\_model\$50\%, understanding; other, generation (mutual\_knn, k = 10, N = 512)" in text
    lines = figures.latex_table(figure, columns=["subject", "timestep", "N", "peak layer", "score"]).splitlines()
    assert lines[:3] == [r"\begin{tabular}{lrrlr}", r"\toprule", r"subject & timestep & N & peak layer & score \\"]
    assert lines[4:6] == [r"my\_model\$50\% & -- & 512 & 11 & 0.120 \\", r"other & 0.500 & 512 & 5 & 0.120 \\"]
    assert len(figures.latex_table(figure, every=True).splitlines()) == 26 + 6
    with pytest.raises(ValueError, match="latex_table: no column 'peak': expected some of subject, task"):
        figures.latex_table(figure, columns=["peak"])


def test_every_figure_has_a_caption_and_a_table(drawings):
    for name in ("gap_closed", "causal_evidence", "worth_maps", "sample_grid", "architectures"):
        figure = drawings[name]()
        assert "_" not in re.sub(r"\\_", "", figures.caption(figure) + figures.latex_table(figure)), name
        plt.close(figure)
