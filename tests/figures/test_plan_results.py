from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from bridgework.figures import plan_outcomes
from bridgework.figures.plan_results import LOOKS

PAIRS = {
    "alignment": [[0, 4], [1, 5], [3, 6], [6, 7]],
    "shallow": [[0, 4], [1, 5], [2, 6], [3, 7]],
    "middle": [[5, 4], [6, 5], [8, 6], [9, 7]],
    "deep": [[8, 4], [9, 5], [10, 6], [11, 7]],
}
SHARES = {"alignment": 0.41, "shallow": 0.46, "middle": 0.25, "deep": 0.17, "random": 0.24}


@pytest.fixture
def table():
    rows = []
    for plan, share in SHARES.items():
        for seed in range(4):
            pairs = PAIRS.get(plan, [[seed, 0], [5, 7], [6, 8], [8, 9]])
            rows.append((plan, seed, share + 0.02 * seed, share + 0.02 * seed, json.dumps(pairs)))
    found = pd.DataFrame(rows, columns=["plan", "seed", "score", "share", "pairs"])
    return found.assign(floor=0.0125, ceiling=0.7833)


@pytest.fixture
def plan(make_plan):
    return make_plan(PAIRS["alignment"])


def cells(points):
    """Cells (understanding block, generation block) of points on a map that has the embeddings first."""
    return [[int(y - 1.5), int(x - 1.5)] for x, y in points]


def test_the_chosen_bridges_are_ringed_and_the_fixed_ones_marked(make_heat, table, plan):
    ax = plan_outcomes(make_heat(), table, plan).axes[0]
    (rings,) = (c for c in ax.collections if c.get_label() == "bridges")
    assert cells(rings.get_offsets()) == PAIRS["alignment"]
    marks = {line.get_label(): line for line in ax.lines if line.get_label() in LOOKS}
    assert set(marks) == {"shallow", "middle", "deep"}  # random plans differ from seed to seed
    for name, line in marks.items():
        assert cells(line.get_xydata()) == PAIRS[name]
        assert (to_hex(line.get_color()), line.get_marker()) == LOOKS[name]


def test_every_plan_has_a_row_with_its_seeds_mean_and_interval(make_heat, table, plan, words):
    figure = plan_outcomes(make_heat(), table, plan)
    ax = figure.axes[1]
    best_last = [label.get_text() for label in ax.get_yticklabels()]
    assert best_last == ["deep", "random", "middle", "alignment", "shallow"]
    for height, name in enumerate(best_last):
        shares = table.share[table.plan == name]
        drawn = [line for line in ax.lines if len(line.get_xdata()) == 4 and abs(line.get_ydata()[0] - height) < 0.3]
        assert len(drawn) == 1 and np.allclose(drawn[0].get_xdata(), shares)
        means = [line for line in ax.lines if line.get_marker() == LOOKS[name][1] and line.get_markersize() == 7]
        assert any(np.allclose(line.get_xdata(), shares.mean()) for line in means)
    text = words(figure)
    assert "0.49  [0.45, 0.53]" in text


def test_the_figure_says_what_its_numbers_are(make_heat, table, plan, words, assert_readable):
    figure = plan_outcomes(make_heat(), table, plan)
    text = words(figure).replace("\n", " ")
    for part in (
        "mutual_knn · k = 10 · N = 512 · chance 0.020",
        "K = 4 bridges a plan",
        "dots: 4 seeds, bar: 95 % t interval",
        "floor 0.01: shuffled captions",
        "ceiling 0.78: own text route",
        "rings: alignment",
        "fixed: first understanding blocks",
        "another plan for each seed",
    ):
        assert part in text
    assert_readable(figure)


def test_one_seed_other_plans_and_few_columns_are_readable(make_heat, make_plan, table, words, assert_readable):
    few = table[(table.seed == 0) & table.plan.isin(["alignment", "random"])][["plan", "seed", "score", "share"]]
    figure = plan_outcomes(make_heat(), few, make_plan([(4, 5)]))
    text = words(figure)
    assert "one seed" in text and "[" not in text and "K = 1 bridge a plan" in text
    assert_readable(figure)
    mine = table.assign(plan=table.plan.replace({"middle": "mine", "deep": "yours"}))
    figure = plan_outcomes(make_heat(28, 32), mine, make_plan(PAIRS["alignment"]))
    assert {"mine", "yours"} <= {line.get_label() for line in figure.axes[0].lines}
    assert_readable(figure)


def test_what_does_not_fit_is_refused(make_heat, make_plan, table, plan):
    with pytest.raises(ValueError, match="plan_outcomes: missing columns share"):
        plan_outcomes(make_heat(), table.drop(columns="share"), plan)
    with pytest.raises(ValueError, match="plan_outcomes: plan 'alignment' has seed 0 twice"):
        plan_outcomes(make_heat(), pd.concat([table, table.head(1)]), plan)
    with pytest.raises(ValueError, match="plan_outcomes: the plan bridges understanding layer 12"):
        plan_outcomes(make_heat(), table, make_plan([(12, 1)]))
    with pytest.raises(ValueError, match="plan_outcomes: the plan bridges understanding layer 8, the map has"):
        plan_outcomes(make_heat(understanding=8), table, plan)
    with pytest.raises(TypeError, match="plan_outcomes: expected the DataFrame of similarity_map, got ndarray"):
        plan_outcomes(make_heat().to_numpy(), table, plan)
