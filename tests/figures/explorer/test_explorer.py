"""The explorer: what its page computes is what Python computes, and what a user does changes what it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings

import numpy as np
import pandas as pd
import pytest

from bridgework import figures
from bridgework.figures.explorer import map_explorer, page_writing
from bridgework.figures.explorer.cost_lines import describe_cost
from bridgework.probes import BridgePlan, Features, choose_bridges, map_null, score_plan, similarity_map
from bridgework.probes.similarity.intervals import curve_draws, interval
from bridgework.probes.similarity.subsampled_maps import subsampled_maps
from bridgework.tests.browser.chromium import Chromium, find_chromium
from bridgework.tests.figures.explorer.explored import make_features, make_stimuli

SAMPLES, TIMES = 60, (0.2, 0.7)
NODE = shutil.which("node")

# Everything that the page computes of a view, from a bundle on disk.
COMPUTE = """
import { readFileSync } from "fs";
const header = JSON.parse(readFileSync("header.json"));
const bytes = readFileSync("numbers");
const bundle = openBundle(header, bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const found = WANTED.map(([t, k, cell]) => {
  const view = overlapView(bundle, t, k);
  for (const _ of measureNoise(bundle, view));
  const { best, kept, rival, settled } = stabilityOf(bundle, view, 2);
  const worse = leadOf(bundle, view, best, [[0, 0], [1, 1]]);
  const list = (values) => Array.from(values, (value) => (Number.isNaN(value) ? null : value));
  const [row, column] = [Math.floor(cell / bundle.columns.length), cell % bundle.columns.length];
  return {
    ...Object.fromEntries(["scores", "p", "adjusted", "null95", "halves"].map((name) => [name, list(view[name])])),
    interval: cellInterval(bundle, view, cell), best, kept: best.map(kept), rival, settled, worse,
    shares: agreement(bundle, t, row, column, k).map(({ share }) => share),
  };
});
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def sides():
    return make_features(SAMPLES, 4, 1), make_features(SAMPLES, 3, 2, TIMES, constant=True)


def open_explorer(sides, **options):
    return figures.explorer(*sides, stimuli=make_stimuli(SAMPLES), draws=20, permutations=40, bridges=2, k=5, **options)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_page_computes_what_python_computes(sides, tmp_path):
    shown = open_explorer(sides)
    bundle = shown._saved_bundle()
    (tmp_path / "header.json").write_text(json.dumps(bundle.header, allow_nan=False))
    (tmp_path / "numbers").write_bytes(bundle.data)
    wanted = [(0, 5, 11), (1, 1, 14), (1, 20, 9)]
    script = (page_writing.FOLDER / "measuring.js").read_text() + COMPUTE.replace("WANTED", json.dumps(wanted))
    done = subprocess.run(
        [str(NODE), "--input-type=module"], input=script, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text, image = sides
    for (t, k, cell), found in zip(wanted, json.loads(done.stdout)):
        y = image.at(TIMES[t])
        heat, null = similarity_map(text, y, k=k), map_null(text, y, k=k, permutations=40)
        expected = {"scores": heat.to_numpy(), "p": null.p, "adjusted": null.adjusted_p, "null95": null.top95}
        explored = shown._explored
        near = explored.near("mutual_knn", k)
        expected["halves"] = subsampled_maps(text, y, "mutual_knn", k, explored.chosen, near)
        for name, values in expected.items():
            np.testing.assert_allclose(np.array(found[name], float), values.ravel(), rtol=0, atol=1e-12, err_msg=name)
        assert np.isnan(heat.to_numpy()[:, 0]).all()  # the constant layer: what has no score has none in the page
        row, column = divmod(cell, 4)
        pair = text.values[row], y.values[column]
        scores, draws = curve_draws([pair], "mutual_knn", k, splits=10)
        np.testing.assert_allclose(found["interval"], np.ravel(interval(scores, draws)), atol=1e-12)
        assert np.mean(found["shares"]) == pytest.approx(heat.iloc[row, column])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = choose_bridges(heat, "alignment", bridges=2, draws=20, features=(text, y))
        stable = plan.evidence["stability"]
        assert found["best"] == [list(pair) for pair in plan.pairs]
        assert found["kept"] == pytest.approx(list(stable["kept"].values()))
        assert found["settled"] == stable["settled"]
        assert {name: found["rival"][name] for name in ("margin", "low", "high")} == pytest.approx(
            {name: stable["runners_up"][0][name] for name in ("margin", "low", "high")}
        )
        margin = plan.score - heat.loc["0", "0"] - heat.loc["1", "1"]
        assert found["worse"]["margin"] == pytest.approx(margin)


def test_the_plan_is_the_rules_until_it_is_drawn_by_hand(sides, tmp_path):
    shown = open_explorer(sides, timestep=0.7, rank=8)
    heat = similarity_map(sides[0], sides[1].at(0.7), k=5)
    pd.testing.assert_frame_equal(shown.heat, heat)
    assert shown.plan == choose_bridges(heat, "alignment", bridges=2, rank=8)
    shown._keep({**shown.state, "pairs": [[0, 0], [3, 1]], "byRule": False})
    plan = shown.plan
    assert (plan.pairs, plan.rule, plan.rank) == (((0, 0), (3, 1)), "by hand", 8)
    assert plan.score == pytest.approx(heat.loc["0", "0"] + heat.loc["3", "1"]) == score_plan(plan, heat)
    assert plan.evidence["y"]["timestep"] == 0.7
    plan.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan
    assert figures.layer_map(shown.heat, plan)


def test_neighbours_of_a_cell_come_as_a_table(sides):
    shown = open_explorer(sides)
    with pytest.raises(ValueError, match="no cell was clicked"):
        shown.agreement()
    shown._keep({**shown.state, "cell": [3, 2]})
    table = shown.agreement()
    assert list(table) == ["id", "text", "share"]
    assert table["share"].is_monotonic_increasing
    assert table["share"].mean() == pytest.approx(shown.heat.iloc[3, 2])
    pd.testing.assert_frame_equal(table, shown.agreement("2", 1))


def test_other_metrics_and_maps_are_measured_and_scored_by_their_rule(sides):
    shown = open_explorer(sides)
    scaled = shown._measured("svcca", 1, 5, True)
    assert scaled.heat.attrs["scaled"] and scaled.halves is not None and scaled.halves.shape == (10, 2, 5, 4)
    heat = similarity_map(*[sides[0], sides[1].at(0.2)], metric="cka")
    heat.attrs["metric"] = "descent"
    shown = open_explorer(sides, maps=[heat])
    shown._keep({**shown.state, "metric": "descent"})
    assert shown.plan.rule in ("descent", "by hand")
    shown._keep({**shown.state, "pairs": [list(pair) for pair in choose_bridges(heat, "descent", 2).pairs]})
    assert shown.plan.rule == "descent"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 21}, "k must be from 1 to 20"),
        ({"metrics": ("knn",)}, "unknown metric 'knn'"),
        ({"metric": "modality_gap"}, "modality_gap does not fit these layers"),
        ({"timestep": 0.5}, "no features at timestep 0.5: swept are 0.2, 0.7"),
        ({"bridges": 4}, "bridges must be from 1 to 3"),
        ({"draws": 3}, "draws must be a whole number of at least 10"),
        ({"stimuli": make_stimuli(3)}, "the stimuli lack 'id 3' and 56 more"),
        ({"maps": [pd.DataFrame()]}, "cannot be handed over"),
        ({"cost": lambda plan: None}, "must return a text"),
        ({"layout": "Y"}, "Y"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(sides, change, message):
    options = {"bridges": 2, "k": 5, "draws": 20, "permutations": 40} | change
    with pytest.raises((ValueError, TypeError), match=message):
        figures.explorer(*sides, **options)
    with pytest.raises(ValueError, match="pass one of them"):
        figures.explorer(Features({"text": sides[0]}), sides[1])


def test_costs_are_said_in_one_line():
    class Estimate:
        trained, peak, operations = 12_345, 2.5e9, 3e12

    assert describe_cost(Estimate()) == "12,345 trained parameters, 2.5 GB, 3 TFLOP a step"
    assert describe_cost(pd.DataFrame([{"GPU hours": 0.25}])) == "0.25 GPU hours"


def test_without_anywidget_the_page_is_shown_in_a_frame(sides, monkeypatch):
    monkeypatch.setattr(map_explorer, "has_widgets", lambda: False)
    shown, _ = open_explorer(sides, metrics=("mutual_knn",))._repr_mimebundle_()
    assert shown["text/html"].startswith("<iframe sandbox")
    assert shown["image/png"].startswith(b"\x89PNG")
    assert "Explorer(5 x 4 layers" in shown["text/plain"]


def test_the_page_needs_no_network(sides, tmp_path):
    page = open_explorer(sides, metrics=("mutual_knn",)).save(tmp_path / "page.html").read_text()
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+|<link|import\(|<script src", page)
    assert page.count("</script>") == 3  # captions do not end a script


# In a browser

HANDLE = "document.querySelector('.bw-explorer').explorer"
DRAWN = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
browser = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")


def cell_at(page: Chromium, row: int, column: int, columns: int) -> tuple[float, float]:
    box = f"document.querySelectorAll('.bw-map > g rect')[{row * columns + column}].getBoundingClientRect()"
    return tuple(page.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box})"))


def text_of(page: Chromium, part: str) -> str:
    return page.run(f"document.querySelector('{part}').innerText")


def choose(page: Chromium, part: str, value: object, event: str) -> None:
    page.run(
        f"(one => {{ one.value = {json.dumps(value)}; one.dispatchEvent(new Event('{event}', {{bubbles: true}})) }})"
        f"(document.querySelector('{part}'))"
    )


def test_a_page_is_not_written_under_a_title_that_is_none(sides, tmp_path):
    shown = open_explorer(sides, metrics=("mutual_knn",))
    for title, says in ((3, "title is 3"), ("", "title is empty"), ("\ud83d", "title is .* UTF-8")):
        with pytest.raises((TypeError, ValueError), match=says):
            shown.save(tmp_path / "page.html", title)
    with pytest.raises(TypeError, match="path is 3"):
        shown.save(3)
    assert not list(tmp_path.iterdir())


@browser
def test_the_page_answers_pointer_and_keyboard(sides, tmp_path):
    shown = open_explorer(sides, cost=lambda plan: {"bridges": len(plan.pairs)})
    shown.save(tmp_path / "page.html")
    with Chromium() as page:
        page.open((tmp_path / "page.html").as_uri())
        page.until(f"{HANDLE}.view().noise")
        page.mouse("mouseMoved", *cell_at(page, 3, 2, 4))
        said = text_of(page, ".bw-readout")
        null = map_null(sides[0], sides[1].at(0.2), k=5, permutations=40)
        assert "understanding 2 × generation 1" in said
        assert f"{null.observed[3, 2]:.3f}" in said and f"{null.p[3, 2]:.3f}, of the map" in said
        page.click(*cell_at(page, 3, 2, 4))
        assert "square 1" in text_of(page, ".bw-stimuli") and "</script><b>&" in text_of(page, ".bw-stimuli")
        assert page.run("document.querySelectorAll('.bw-stimuli article').length") == 12
        choose(page, "input[aria-label=timestep]", 1, "input")
        choose(page, "input[aria-label=k]", 7, "input")
        heat = similarity_map(sides[0], sides[1].at(0.7), k=8)
        scores = page.run(f"Array.from({HANDLE}.view().scores, score => Number.isNaN(score) ? null : score)")
        np.testing.assert_allclose(np.array(scores, float), heat.to_numpy().ravel(), atol=1e-12)
        best = [list(pair) for pair in choose_bridges(heat, "alignment", bridges=2).pairs]
        assert page.run(f"{HANDLE}.state().pairs") == best
        other = [[0, 0], best[1]] if best[0] != [0, 0] and best[1][0] > 0 and best[1][1] > 0 else [best[0], [3, 2]]
        moved = next(number for number in (0, 1) if other[number] != best[number])
        page.drag(*(cell_at(page, pair[moved][0] + 1, pair[moved][1] + 1, 4) for pair in (best, other)))
        page.until(f"{HANDLE}.view().noise")
        page.run(DRAWN)
        assert page.run(f"{HANDLE}.state().pairs") == other
        panel = text_of(page, ".bw-plan")
        assert (
            "drawn by hand" in panel and "The rule’s plan scores" in panel and "Cost of 2 bridges by the rule" in panel
        )
        record = page.run(f"{HANDLE}.planRecord()")
        (tmp_path / "plan.json").write_text(json.dumps(record))
        shown._keep(page.run(f"{HANDLE}.state()"))
        assert BridgePlan.load(tmp_path / "plan.json") == shown.plan
        assert shown.plan.evidence == record["evidence"]
        # by keyboard: back to the rule's plan, to its first bridge, and away with it
        page.run("document.querySelector('.bw-buttons button').click(); document.querySelector('.bw-map').focus()")
        first = page.run(f"{HANDLE}.state().pairs")[0]
        for _ in range(8):
            page.press("ArrowDown")
            page.press("ArrowLeft")
        for key, count in (("ArrowUp", first[0] + 1), ("ArrowRight", first[1] + 1)):
            for _ in range(count):
                page.press(key)
        page.press("b")
        assert page.run(f"{HANDLE}.state().pairs") == best[1:]
        page.press("Enter")
        assert page.run(f"{HANDLE}.state().cell") == [first[0] + 1, first[1] + 1]
        choose(page, "select", "cka", "change")
        assert "cka is not computed from neighbours" in text_of(page, ".bw-stimuli")
        assert page.run("document.querySelector('input[aria-label=k]').disabled")
        assert not page.errors


@browser
def test_hovering_and_a_change_of_metric_are_quick(tmp_path):
    sides = make_features(512, 16, 1), make_features(512, 13, 2, (0.5,))
    shown = figures.explorer(*sides, stimuli=make_stimuli(512), draws=10, permutations=200)
    shown.save(tmp_path / "page.html")
    with Chromium() as page:
        page.open((tmp_path / "page.html").as_uri())
        page.until(f"{HANDLE}.view().noise")

        def busy(act, *args) -> float:
            before = page.busy()
            act(*args)
            page.run(DRAWN)
            return page.busy() - before

        hovers = [busy(page.mouse, "mouseMoved", *cell_at(page, 4 + i, 3 + i, 14)) for i in range(6)]
        changes = [busy(choose, page, "select", name, "change") for name in ("cka", "mutual_knn", "cka")]
        changes.append(busy(choose, page, "input[aria-label=k]", 19, "input"))
        assert max(hovers) < 0.05
        assert max(changes) < 1
        assert not page.errors


# Stands for a notebook: JavaScript that keeps what the widget is told, and hands over what Python answers.
MODEL = """
window.model = {
  traits: {}, kept: [], asked: [], heard: [],
  get(name) { return this.traits[name]; },
  set(name, value) { this.traits[name] = value; },
  save_changes() { this.kept.push(structuredClone(this.traits.state)); },
  send(question) { this.asked.push(question); },
  on(event, heard) { this.heard.push(heard); },
  off() {},
};
window.bytes = (letters) => new DataView(Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0)).buffer);
"""


@browser
def test_a_plan_that_is_drawn_in_a_notebook_arrives_in_python(sides, monkeypatch):
    pytest.importorskip("anywidget")
    import base64

    shown = open_explorer(sides, cost=lambda plan: f"{len(plan.pairs)} bridges")
    widget = shown.widget
    bundle, _ = shown._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "image/png" in bundle

    def letters(data: bytes) -> str:
        return json.dumps(base64.b64encode(data).decode())

    with Chromium() as page:
        page.run(MODEL)
        traits = f"header: {json.dumps(widget.header)}, state: {json.dumps(widget.state)}"
        page.run(f"model.traits = {{{traits}, data: bytes({letters(widget.data)})}}")
        module = json.dumps(widget._esm)
        page.run(
            f"import(URL.createObjectURL(new Blob([{module}], {{type: 'text/javascript'}})))"
            ".then(found => found.default.render({model, el: document.body}))"
        )

        def answer() -> list[dict]:
            """Let Python answer all questions, and return them."""
            sent = []
            monkeypatch.setattr(type(widget), "send", lambda _, message, buffers=(): sent.append((message, buffers)))
            questions = page.run("model.asked.splice(0)")
            for question in questions:
                widget._handle_custom_msg(question, [])
            for message, buffers in sent:
                data = ", ".join(f"bytes({letters(one)})" for one in buffers)
                page.run(f"model.heard.forEach(heard => heard({json.dumps(message)}, [{data}]))")
            return questions

        choose(page, "select", "cka", "change")
        assert {"ask": "map", "metric": "cka", "timestep": 0, "k": 5} in answer()
        page.until(f"{HANDLE}.view().metric === 'cka' && {HANDLE}.view().noise")
        heat = similarity_map(sides[0], sides[1].at(0.2), "cka")
        scores = page.run(f"Array.from({HANDLE}.view().scores, score => Number.isNaN(score) ? null : score)")
        np.testing.assert_allclose(np.array(scores, float), heat.to_numpy().ravel(), atol=1e-12)
        page.run("document.querySelector('button[aria-label=\"fewer bridges\"]').click()")
        ((u, g),) = page.run(f"{HANDLE}.state().pairs")
        target = (0, 0) if (u, g) != (0, 0) else (3, 2)
        page.drag(cell_at(page, u + 1, g + 1, 4), cell_at(page, target[0] + 1, target[1] + 1, 4))
        widget.state = page.run("model.kept.at(-1)")
        assert shown.plan.pairs == (target,)
        assert shown.plan.rule == "by hand" and shown.plan.evidence["metric"] == "cka"
        answer()
        assert "Cost: 1 bridges." in text_of(page, ".bw-plan")
        choose(page, "select", "pwcca", "change")
        monkeypatch.setattr(map_explorer, "measure_view", lambda *_: (_ for _ in ()).throw(ValueError("too few")))
        answer()
        assert text_of(page, ".bw-status") == "too few" and page.run(f"{HANDLE}.state().metric") == "cka"
        assert not page.errors
