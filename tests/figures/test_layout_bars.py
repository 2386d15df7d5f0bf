from __future__ import annotations

import pandas as pd
import pytest

from bridgework.figures import layouts_compared

LAYOUTS = ("shared", "Y", "X", "dense", "H", "double fusion", "last", "soft")


@pytest.fixture
def table():
    """As `bridgework reproduce layouts` writes it, made up."""
    rows = []
    for place, layout in enumerate(LAYOUTS):
        loss = 0.1 + 0.013 * (place * 5 % 11)
        row = {"layout": layout, "parameters": 20_000 * 10 ** (place % 3), "step_seconds": 0.2 * (1 + place)}
        row |= {"loss": loss, "shuffled": loss + 0.04, "difference": 0.04, "low": 0.03, "high": 0.05}
        rows.append(row | {"floor": loss + 0.02, "above": 0.02, "above_low": 0.015, "above_high": 0.025})
    return pd.DataFrame(rows)


def drawn(figure):
    """For each kind of loss by its label: the dots, and the (low, high) of its bars."""
    ax = figure.axes[0]
    dots = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    bars = [[tuple(segment[:, 0]) for segment in each.get_segments()] for each in ax.collections]
    return dots, bars


def test_the_lowest_loss_is_on_top(table):
    ax = layouts_compared(table).axes[0]
    order = [label.get_text() for label in ax.get_yticklabels()]
    assert order[::-1] == list(table.sort_values("loss")["layout"])


def test_losses_are_dots_and_intervals_of_their_differences_bars(table):
    dots, bars = drawn(layouts_compared(table))
    table = table.sort_values("loss", ascending=False)
    assert list(dots.values()) == [list(table[name]) for name in ("loss", "shuffled", "floor")]
    for bar, low, high in zip(bars, ("low", "above_low"), ("high", "above_high"), strict=True):
        assert bar == list(zip(table["loss"] + table[low], table["loss"] + table[high], strict=True))


def test_a_floor_that_is_not_there_yet_is_left_out(table, words):
    done = drawn(layouts_compared(table))[0]
    for early in (table.drop(columns=["floor", "above", "above_low", "above_high"]), table.assign(floor=float("nan"))):
        assert len(drawn(layouts_compared(early))[0]) == len(done) - 1


def test_costs_stand_beside_and_all_can_be_read(table, words, assert_readable):
    figure = layouts_compared(table)
    text = words(figure)
    for part in ("0.02 M", "2.00 M", "0.2 s", "1.4 s", "own captions", "trained with captions of other", *LAYOUTS):
        assert part in text
    assert_readable(figure)
    assert_readable(layouts_compared(table.head(3)))


def test_another_table_is_refused(table):
    with pytest.raises(ValueError, match="'H' is there twice"):
        layouts_compared(pd.concat([table, table[table["layout"] == "H"]]))
    with pytest.raises(ValueError, match="missing columns step_seconds"):
        layouts_compared(table.drop(columns="step_seconds"))
