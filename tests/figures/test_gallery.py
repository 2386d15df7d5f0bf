from __future__ import annotations

import os
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from bridgework.figures import Entry, learning_curves, write_gallery


class Page(HTMLParser):
    """Collects links, images, ids, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.ids, self.open, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.images += [found] if tag == "img" else []
        self.ids += [found["id"]] if "id" in found else []
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def log():
    return pd.DataFrame({"step": range(50), "loss": [1 / (step + 1) for step in range(50)], "name": "alignment"})


@pytest.fixture
def entry(log):
    return Entry("Learning curves", learning_curves(log), "Loss falls & <stays> low.", log)


def test_page_refers_only_to_files_and_parts_that_exist(tmp_path, entry, log):
    path = write_gallery(
        tmp_path / "new" / "gallery",
        [entry, ("Long run", learning_curves(log), "More steps.", log, "committed long run")],
        {"Scores by skill": pd.DataFrame({"skill": ["counting"], "score": [0.5]})},
        title="Where to <bridge>",
        notes=["Measured here.", "Seed 0."],
        headline={"share of the gap closed": 0.62345, "divergence depth": "0.44 [0.38, 0.50]"},
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    files = [link for link in page.links if not link.startswith("#")] + [image["src"] for image in page.images]
    assert files and all((path.parent / file).is_file() for file in files)
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.ids)
    assert {file.name for file in path.parent.iterdir()} == {*files, "index.html"}
    for part in ("Where to <bridge>", "Loss falls & <stays> low.", "Seed 0.", "0.623", "0.44 [0.38, 0.50]"):
        assert part in page.text
    assert "this run" in page.text and "committed long run" in page.text


def test_page_loads_nothing_from_elsewhere(tmp_path, entry):
    text = write_gallery(tmp_path, [entry]).read_text(encoding="utf-8")
    assert "//" not in text.replace("<!doctype html>", "") and "url(" not in text and "<script" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_images_have_alt_text_and_their_proportions(tmp_path, entry):
    path = write_gallery(tmp_path, [entry])
    (image,) = Page(path.read_text(encoding="utf-8")).images
    assert "Learning curves" in image["alt"]
    with Image.open(tmp_path / image["src"]) as png:
        assert png.width / png.height == pytest.approx(int(image["width"]) / int(image["height"]), rel=0.01)
        assert png.width == round(150 * entry.figure.get_figwidth())


def test_the_csv_holds_all_numbers_and_the_page_says_what_it_leaves_out(tmp_path, entry, log):
    path = write_gallery(tmp_path, [entry])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "learning-curves.csv"), log)
    text = path.read_text(encoding="utf-8")
    assert "50 rows; the first 40 are shown" in text and text.count("<tr") == 41


def test_a_named_index_is_kept(tmp_path, entry, make_heat):
    heat = make_heat(2, 3)
    write_gallery(tmp_path, [entry._replace(numbers=heat)])
    read = pd.read_csv(tmp_path / "learning-curves.csv", index_col="understanding layer")
    assert list(read.index) == list(heat.index) and read.to_numpy() == pytest.approx(heat.to_numpy())


def test_a_second_run_replaces_the_first_and_leaves_other_files(tmp_path, entry, log):
    (tmp_path / "mine.txt").write_text("kept")
    write_gallery(tmp_path, [entry])
    write_gallery(tmp_path, [entry._replace(caption="Second.", numbers=log.head(3))], title="Again")
    assert "Second." in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert len(pd.read_csv(tmp_path / "learning-curves.csv")) == 3
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_failure_leaves_the_old_page_and_no_remains(tmp_path, entry, monkeypatch):
    write_gallery(tmp_path, [entry])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(entry.figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        write_gallery(tmp_path, [entry._replace(name="Other"), entry])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_page_is_replaced_after_what_it_shows(tmp_path, entry, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (moved.append(new.name), replace(old, new)))
    write_gallery(tmp_path, [entry])
    assert sorted(moved[:-1]) == ["learning-curves.csv", "learning-curves.png"] and moved[-1] == "index.html"


def test_bad_entries_are_named(tmp_path, entry, log):
    with pytest.raises(ValueError, match="no figures"):
        write_gallery(tmp_path, [])
    with pytest.raises(ValueError, match="'Learning curves' is taken twice"):
        write_gallery(tmp_path, [entry], {"learning curves!": log})
    with pytest.raises(ValueError, match="gives no file name"):
        write_gallery(tmp_path, [entry._replace(name="?!")])
    with pytest.raises(TypeError, match="'Learning curves': expected a Figure, got str"):
        write_gallery(tmp_path, [entry._replace(figure="figure.png")])
    with pytest.raises(TypeError, match="'Learning curves': expected a DataFrame, got list"):
        write_gallery(tmp_path, [entry._replace(numbers=[1])])
    with pytest.raises(TypeError, match=r"expected \(name, figure, caption, numbers, label\)"):
        write_gallery(tmp_path, [("name",)])
    assert not list(tmp_path.iterdir())
