from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from scipy import stats

from bridgework.figures import edit_grid, gap_closed, sample_grid

CAPTIONS = ["a red circle", "two green squares left of a blue triangle", "three stars", "a cross above a circle"]


def pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 4, 8])
def test_grid_shows_every_image_with_its_whole_caption(assert_readable, count):
    images, captions = pictures(count), [CAPTIONS[i % 4] for i in range(count)]
    figure = sample_grid(images, captions, [True] * count)
    assert len(figure.axes) == count
    for ax, image, caption in zip(figure.axes, images, captions, strict=True):
        assert np.array_equal(ax.images[0].get_array(), image)
        assert ax.get_xlabel().replace("\n", " ") == caption
    assert_readable(figure)


def test_verdicts_differ_in_symbol_and_colour():
    figure = sample_grid(pictures(3), CAPTIONS[:3], [True, False, True])
    marks = [ax.texts[0].get_text() for ax in figure.axes]
    colours = [to_hex(ax.spines["left"].get_edgecolor()) for ax in figure.axes]
    assert marks == ["✓", "✗", "✓"]
    assert colours[0] == colours[2] != colours[1]
    assert "2 of 3" in figure.get_suptitle()


def test_grid_takes_pil_floats_and_grey():
    image = pictures(1)[0]
    shown = sample_grid([Image.fromarray(image), image / 255, image[..., 0]], CAPTIONS[:3], [True] * 3).axes
    assert np.array_equal(shown[0].images[0].get_array(), image)
    assert np.allclose(shown[1].images[0].get_array(), image / 255)
    assert shown[2].images[0].get_clim() == (0, 255)


def test_grid_refuses_unequal_lengths_and_odd_images():
    with pytest.raises(ValueError, match="2 images, 1 captions, 2 verdicts"):
        sample_grid(pictures(2), ["one"], [True, False])
    with pytest.raises(ValueError, match="at least one"):
        sample_grid([], [], [])
    with pytest.raises(ValueError, match=r"image 0 has shape \(3, 32, 32\)"):
        sample_grid([np.zeros((3, 32, 32))], ["a"], [True])
    with pytest.raises(ValueError, match=r"image 0 has values out of 0..1: clip it"):
        sample_grid([np.full((4, 4, 3), 1.2)], ["a"], [True])


@pytest.fixture
def table():
    shares = {"random": (0.3, 0.35, 0.4), "alignment": (0.5, 0.6, 0.7), "middle": (0.55, 0.5, 0.6)}
    return pd.DataFrame(
        [(plan, seed, 0.2 + share / 2, share) for plan, row in shares.items() for seed, share in enumerate(row)],
        columns=["plan", "seed", "score", "share"],
    )


def test_gap_draws_seeds_means_and_intervals(table, assert_readable):
    figure = gap_closed(table)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["random", "middle", "alignment"]
    drawn = [list(line.get_xdata()) for line in ax.lines]
    for plan, rows in table.groupby("plan"):
        low, high = stats.t.interval(0.95, 2, rows.share.mean(), stats.sem(rows.share))
        for expected in (list(rows.share), [rows.share.mean()], [low, high]):
            assert any(len(x) == len(expected) and np.allclose(x, expected) for x in drawn), (plan, expected)
    assert_readable(figure)


def test_gap_names_floor_ceiling_and_numbers(table, words):
    text = words(gap_closed(table)).replace("\n", " ")
    for part in (
        "floor: shuffled captions",
        "ceiling: own text route",
        "0.60  [0.35, 0.85]  n = 3",
        "t interval",
        "fixed: middle blocks",
    ):
        assert part in text


def test_one_seed_has_no_interval(table, words):
    figure = gap_closed(table[table.seed == 0])
    assert "[" not in words(figure) and "n = 1" in words(figure)


def test_shares_outside_the_gap_stay_in_view(table, assert_readable):
    figure = gap_closed(table.assign(share=table.share * 4 - 1.5))
    low, high = figure.axes[0].get_xlim()
    assert low < -0.3 and high > 1.3
    assert_readable(figure)


def test_gap_refuses_another_table(table):
    with pytest.raises(ValueError, match="gap_closed: missing columns share"):
        gap_closed(table.drop(columns="share"))
    with pytest.raises(ValueError, match="plan 'random' has seed 0 twice"):
        gap_closed(pd.concat([table, table.head(1)]))


def png(image):
    stream = BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def edited(count):
    """Edits of which every second one succeeds, with their images as PNG."""
    images = pictures(2 * count)
    return pd.DataFrame({"kind": "swap",
        "instruction": [f"swap the purple triangle and the circle number {place}" for place in range(count)],
        "change": np.arange(count) % 2, "stay_objects": 0.5, "stay_pixels": 0.25, "success": np.arange(count) % 2,
        "source_png": [png(image) for image in images[:count]],
        "result_png": [png(image) for image in images[count:]]})  # fmt: skip


def shown(figure):
    """The images that are drawn, row by row."""
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes]


@pytest.mark.parametrize("count", [1, 6, 8])
def test_edits_show_instruction_source_result_and_verdict(assert_readable, count):
    table = edited(count)
    figure = edit_grid(table)
    assert len(figure.axes) == 2 * count
    assert f"{count // 2} of {count} edits succeed" in figure.get_suptitle()
    images = pictures(2 * count)
    assert sum(any(np.array_equal(image, each) for each in shown(figure)) for image in images) == 2 * count
    titles = [ax.get_title().replace("\n", " ") for ax in figure.axes]
    assert [title for title in titles if title] == list(table["instruction"])
    verdicts = [ax.get_xlabel().replace("\n", ", ") for ax in figure.axes]
    assert verdicts.count("change not made, objects kept 50%, pixels kept 25%") == count - count // 2
    assert [ax.texts[0].get_text() for ax in figure.axes if ax.texts] == list("✗✓" * count)[:count]
    assert_readable(figure)


@pytest.mark.parametrize("count", [2, 7])
def test_models_are_compared_below_one_source(assert_readable, count):
    table = pd.concat([edited(count).assign(model="one"), edited(count).assign(model="other", success=0)])
    figure = edit_grid(table, by="model")
    assert len(figure.axes) == 3 * count
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    rows = ["source", f"one\n{count // 2} of {count} succeed", f"other\n0 of {count} succeed"]
    assert labels == rows * (1 + (count > 6))
    assert_readable(figure)


def test_edits_may_hold_images_that_are_no_files_yet():
    table = edited(2)
    images = [Image.fromarray(image) for image in pictures(4)]
    open_images = table.assign(source_png=images[:2], result_png=images[2:])
    for one, other in zip(shown(edit_grid(table)), shown(edit_grid(open_images)), strict=True):
        assert np.array_equal(one, other)


def test_edits_without_their_columns_are_refused():
    with pytest.raises(ValueError, match=r"edit_grid.*source_png"):
        edit_grid(edited(1).drop(columns="source_png"))
    with pytest.raises(ValueError, match=r"edit_grid.*missing columns model"):
        edit_grid(edited(1), by="model")
    other = pd.concat([edited(2).assign(model="one"), edited(2)[::-1].assign(model="other")])
    with pytest.raises(ValueError, match="edit_grid: model 'other' has other edits than 'one': pass the same of each"):
        edit_grid(other, by="model")
    with pytest.raises(TypeError, match="edit_grid: an image is a str: expected PNG as bytes, or a PIL image"):
        edit_grid(edited(1).assign(result_png="a.png"))
