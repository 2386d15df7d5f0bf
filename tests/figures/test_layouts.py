from __future__ import annotations

import pandas as pd
import pytest

from bridgework.figures import layouts_compared

LAYOUTS = ("shared", "Y", "X", "dense", "H", "double fusion", "last")


@pytest.fixture
def table():
    rows = []
    for place, layout in enumerate(LAYOUTS):
        loss = 0.1 + 0.013 * (place * 5 % 7)
        row = {"layout": layout, "trainable_parameters": 20_000 * 10 ** (place % 3), "step_seconds": 0.2 * (1 + place)}
        for name, value in (("loss", loss), ("shuffled_loss", loss + 0.04)):
            row |= {name: value, f"{name}_low": value - 0.006, f"{name}_high": value + 0.006}
        rows.append(row)
    return pd.DataFrame(rows)


def test_the_lowest_loss_is_on_top(table):
    ax = layouts_compared(table).axes[0]
    order = [label.get_text() for label in ax.get_yticklabels()]
    assert order[::-1] == list(table.sort_values("loss")["layout"])


def test_losses_and_intervals_of_both_kinds_of_captions_are_drawn(table):
    ax = layouts_compared(table).axes[0]
    own, shuffled = (sorted(line.get_xdata()) for line in ax.lines)
    assert own == sorted(table["loss"]) and shuffled == sorted(table["shuffled_loss"])
    spans = [sorted(tuple(segment[:, 0]) for segment in each.get_segments()) for each in ax.collections]
    assert spans[0] == sorted(zip(table["loss_low"], table["loss_high"], strict=True))
    assert spans[1] == sorted(zip(table["shuffled_loss_low"], table["shuffled_loss_high"], strict=True))


def test_costs_stand_beside_and_all_can_be_read(table, words, assert_readable):
    figure = layouts_compared(table)
    text = words(figure)
    for part in ("0.02 M", "2 M", "0.2 s", "1.4 s", "own captions", "captions of other images", *LAYOUTS):
        assert part in text
    assert_readable(figure)


def test_another_table_is_refused(table):
    with pytest.raises(ValueError, match="'H' is there twice"):
        layouts_compared(pd.concat([table, table[table["layout"] == "H"]]))
    with pytest.raises(ValueError, match="missing columns step_seconds"):
        layouts_compared(table.drop(columns="step_seconds"))
