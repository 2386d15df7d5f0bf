"""Maps of worth and dots of correlations: what is drawn is the tables', what waits is said, bad tables are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridgework.figures import rule_correlations, worth_maps

BLOCKS = [(u, g) for u in (0, 5, 11) for g in (0, 4)]
RULES = ("alignment, cka", "descent")


@pytest.fixture
def tables():
    """Two pairs, the second not complete and with one map only; worth is largest at 11-0, the gains at 5-4."""
    worths = [("a x g", u, g, 0.1 * u - 0.01 * g) for u, g in BLOCKS] + [("b x g", u, g, np.nan) for u, g in BLOCKS]
    maps = [("a x g", rule, u, g, -((u - 5) ** 2) + g) for rule in RULES for u in range(12) for g in range(5)]
    maps += [("b x g", "descent", u, g, 1.0) for u, g in BLOCKS]
    ranks = [(rule, "a x g", 0.4, -0.3, 0.9, 0.8) for rule in (*RULES, "depth")]
    ranks += [(rule, "b x g", *[np.nan] * 4) for rule in (*RULES, "depth")]
    return (
        pd.DataFrame(worths, columns=["pair", "understanding", "generation", "worth"]),
        pd.DataFrame(maps, columns=["pair", "rule", "understanding", "generation", "gain"]),
        pd.DataFrame(ranks, columns=["rule", "pair", "rho", "partial", "ceiling", "partial_ceiling"]),
    )


def test_maps_stand_on_the_grid_with_their_best_cells_and_correlations(tables, words, assert_readable):
    figure = worth_maps(*tables)
    worth, cka, descent, other_worth, no_map, flat = figure.axes
    assert np.asarray(worth.images[0].get_array()) == pytest.approx(tables[0]["worth"].to_numpy()[:6].reshape(3, 2))
    assert worth.lines[0].get_xydata().tolist() == [[0, 2]]  # 11-0: column 0, row 2
    assert np.asarray(descent.images[0].get_array()).tolist() == [[3, 4], [5, 6], [1, 2]]  # ranks of the grid's gains
    marks = [line.get_xydata().tolist() for line in descent.lines]
    assert marks[0] == [[1, 1]] and marks[-1] == [[0, 2]]
    assert cka.get_title(loc="left") == "cka"
    assert not other_worth.images and not no_map.images and not flat.lines  # a flat map has no best cell
    assert all(text in words(figure) for text in ("ρ .40, partial -.30", "a perfect map: ρ .90, partial .80", "1.06"))
    assert "not complete" in words(figure) and "no map yet" in words(figure)
    assert len(worth_maps(tables[0], tables[1].head(0), tables[2]).axes) == 2
    assert_readable(figure)


def test_dots_are_pairs_and_bars_their_interval(tables, words, assert_readable):
    ranks = tables[2].copy()
    ranks.loc[(ranks["pair"] == "b x g") & (ranks["rule"] == "descent"), ["rho", "partial"]] = (0.8, 0.5)
    figure = rule_correlations(ranks)
    left = figure.axes[0]
    assert [label.get_text() for label in left.get_yticklabels()][-1] == "descent"  # the largest partial on top
    dots = {line.get_label(): line.get_xdata().tolist() for line in left.lines if " x " in str(line.get_label())}
    assert sorted(dots["a x g"]) == [0.4, 0.4, 0.4] and dots["b x g"] == [0.8]
    half = 12.706 * 0.2  # t of one degree of freedom, standard error of .4 and .8
    (bar,) = (line.get_xdata() for line in left.lines if len(set(line.get_xdata())) == 2 and line.get_ls() == "-")
    assert list(bar) == pytest.approx([0.6 - half, 0.6 + half], abs=1e-3)
    assert "nothing is left of depth" in words(figure) and "2 of 2 pairs" in words(figure)
    assert_readable(figure)
    waiting = tables[2].assign(rho=np.nan, partial=np.nan)
    assert "no pair is complete" in words(rule_correlations(waiting))


def test_what_does_not_fit_is_named(tables):
    worths, maps, ranks = tables
    with pytest.raises(ValueError, match="worth_maps, maps: missing columns gain"):
        worth_maps(worths, maps.drop(columns="gain"), ranks)
    with pytest.raises(ValueError, match=r"worth_maps, worths: .*'a x g'.* stands twice"):
        worth_maps(pd.concat([worths, worths.head(1)]), maps, ranks)
    with pytest.raises(ValueError, match="'depth' stands twice for 'a x g': pass one outcome"):
        rule_correlations(pd.concat([ranks, ranks[ranks["rule"] == "depth"]]))
