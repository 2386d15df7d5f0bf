from __future__ import annotations

import numpy as np
import pytest

from bridgework.figures import layer_map


def rings(figure):
    """Cells (row, column) that carry a ring."""
    rings = [c for c in figure.axes[0].collections if c.get_label() == "bridges"]
    assert len(rings) == 1
    return [(int(y - 0.5), int(x - 0.5)) for x, y in rings[0].get_offsets()]


@pytest.mark.parametrize("embeddings", [True, False])
def test_rings_lie_on_the_planned_blocks(make_heat, make_plan, embeddings):
    heat, plan = make_heat(embeddings=embeddings), make_plan([(0, 0), (4, 5), (11, 15)])
    cells = rings(layer_map(heat, plan=plan))
    assert [(int(heat.index[row]), int(heat.columns[column])) for row, column in cells] == list(plan.pairs)


def test_only_the_tower_with_embeddings_is_shifted(make_heat, make_plan):
    heat = make_heat().drop(columns="embeddings")
    heat.attrs = make_heat().attrs
    assert rings(layer_map(heat, make_plan([(4, 5)]))) == [(5, 5)]


def test_plain_numbered_labels_are_blocks(make_heat, make_plan):
    heat = make_heat(embeddings=False)
    heat.index, heat.columns = range(12), range(16)
    assert rings(layer_map(heat, make_plan([(4, 5)]))) == [(4, 5)]


def test_map_draws_the_values_with_depth_upward(make_heat):
    heat = make_heat()
    ax = layer_map(heat).axes[0]
    assert np.array_equal(np.asarray(ax.collections[0].get_array()).reshape(heat.shape), heat.to_numpy())
    low, high = ax.get_ylim()
    assert low < high
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["emb.", *map(str, range(12))]
    assert list(ax.get_yticks()) == [row + 0.5 for row in range(13)]


def test_the_line_joins_the_bridges_in_depth_order(make_heat, make_plan):
    ax = layer_map(make_heat(), make_plan([(8, 9), (4, 5)])).axes[0]
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[6.5, 5.5], [10.5, 9.5]]


def test_map_names_metric_k_samples_chance_and_plan(make_heat, make_plan, words):
    text = words(layer_map(make_heat(), make_plan()))
    for part in (
        "mutual_knn · k = 10 · N = 512 · chance 0.020",
        "3 bridges by rule “alignment”",
        "understanding layer",
    ):
        assert part in text
    figure = layer_map(make_heat(metric="cka", k=None))
    assert figure.axes[1].get_ylabel() == "similarity (cka)"
    descent = layer_map(make_heat(metric="descent", k=None))
    assert descent.axes[1].get_ylabel() == "fall of the loss (descent)"
    assert "k =" not in words(figure)


def test_axes_tell_whose_layers_these_are(make_heat, assert_readable):
    vlm = {"subject": "my-vlm", "modality": "text", "task": "understanding", "pass": "separate", "timestep": None}
    dit = {"subject": "my-dit", "modality": "image", "task": "generation", "pass": "separate", "timestep": 0.5}
    figure = layer_map(make_heat(x=vlm, y=dit))
    assert figure.axes[0].get_ylabel() == "understanding layer (block; deeper →)\nmy-vlm, text"
    assert figure.axes[0].get_xlabel() == "generation layer (block; deeper →)\nmy-dit, image, t = 0.5"
    assert_readable(figure)


@pytest.mark.parametrize("blocks", [(2, 2), (19, 20), (28, 32), (6, 40)])
def test_map_is_readable_at_every_depth(make_heat, make_plan, assert_readable, blocks):
    figure = layer_map(make_heat(*blocks), make_plan([(1, 1)], *blocks))
    assert_readable(figure)
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        shown = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        assert all(label.get_text() == "emb." or int(label.get_text()) == place - 1.5 for place, label in shown)


def test_map_refuses_what_it_cannot_place(make_heat, make_plan):
    with pytest.raises(ValueError, match="plan bridges understanding layer 12, the map has embeddings, 0"):
        layer_map(make_heat(), make_plan([(12, 1)]))
    heat = make_heat()
    heat.attrs = {}
    with pytest.raises(ValueError, match="attrs lacks metric, samples"):
        layer_map(heat)
    with pytest.raises(TypeError, match="expected the DataFrame of similarity_map, got ndarray"):
        layer_map(heat.to_numpy())
    with pytest.raises(ValueError, match="no cells"):
        layer_map(heat.head(0))


def outlined(figure):
    """Edges ((x, y), (x, y)) of the cells that are outlined."""
    lines = [c for c in figure.axes[0].collections if c.get_label() == "within noise"]
    return {frozenset(map(tuple, edge.astype(int).tolist())) for line in lines for edge in line.get_segments()}


def test_cells_within_noise_of_the_best_are_outlined_as_one(make_heat, make_plan, assert_readable, words):
    heat, plan = make_heat(), make_plan([(4, 5)])
    assert not outlined(layer_map(heat, plan))
    plan.evidence = {**heat.attrs, "stability": {"near_best": [[4, 5], [4, 6]]}}
    figure = layer_map(heat, plan)
    row, left, right = 5, 6, 8  # behind the embeddings
    expected = {frozenset({(x, y), (x + 1, y)}) for x in (left, left + 1) for y in (row, row + 1)}
    assert outlined(figure) == expected | {frozenset({(x, row), (x, row + 1)}) for x in (left, right)}
    assert "outlined: within noise" in words(figure)
    assert_readable(figure)
    assert not outlined(layer_map(make_heat(metric="cka", k=None), plan))  # the plan is of another map


def test_colours_span_the_blocks_and_not_the_embeddings(make_heat):
    heat = make_heat()
    heat.loc["embeddings"], heat["embeddings"] = 9.0, -9.0
    blocks = heat.drop(index="embeddings", columns="embeddings").to_numpy()
    figure = layer_map(heat)
    assert figure.axes[0].collections[0].get_clim() == (blocks.min(), blocks.max())
    assert figure.axes[1]._colorbar.extend == "both"
    assert layer_map(make_heat(embeddings=False)).axes[1]._colorbar.extend == "neither"


def test_cells_within_the_null_are_dotted(make_heat, make_plan, assert_readable, words):
    heat = make_heat()
    p = np.full(heat.shape, 0.01)
    p[3, 4], p[5, 6], p[0, 0] = 0.2, 0.06, np.nan
    heat.attrs |= {"p": p.tolist(), "peak_p": 0.01}
    figure = layer_map(heat, make_plan())
    (dots,) = [c for c in figure.axes[0].collections if c.get_label() == "within the null"]
    assert {tuple(place) for place in dots.get_offsets().tolist()} == {(4.5, 3.5), (6.5, 5.5)}
    assert "dotted: within the null; p of the best cell 0.01" in words(figure)
    assert_readable(figure)
    assert "dotted" not in words(layer_map(heat.drop(index="embeddings")))  # the null is of another table


def test_maps_of_a_sweep_are_drawn_in_the_same_colours(make_heat, make_plan, assert_readable, words):
    heats = {t: make_heat(6, 8, y={"subject": "my-dit", "timestep": t}) * (1 + t) for t in (0.2, 0.5, 0.8)}
    for heat in heats.values():
        heat.attrs |= {"p": np.full(heat.shape, 0.5).tolist(), "peak_p": 0.3}
    plan = make_plan([(4, 5)], 6, 8)
    plan.evidence = {"y": {"timestep": 0.5}}
    figure = layer_map(heats, plan)
    maps = figure.axes[:3]
    assert [ax.get_title(loc="left") for ax in maps] == ["t = 0.2", "t = 0.5", "t = 0.8"]
    assert len({ax.collections[0].get_clim() for ax in maps}) == 1
    for ax, heat in zip(maps, heats.values(), strict=True):
        assert np.array_equal(np.asarray(ax.collections[0].get_array()).reshape(heat.shape), heat.to_numpy())
    assert [sum(c.get_label() == "bridges" for c in ax.collections) for ax in maps] == [0, 1, 0]
    for part in ("1 bridge by rule", "k = 10", "my-dit", "p of the best cell 0.3", "similarity (mutual_knn)"):
        assert part in words(figure)
    assert_readable(figure)
    assert_readable(layer_map({0.2: make_heat(3, 3), 0.5: make_heat(3, 3)}, make_plan([(0, 0), (1, 1)], 3, 3)))
    with pytest.raises(ValueError, match="unlike layers, metrics, k or N: draw them one by one"):
        layer_map(heats | {0.9: make_heat(6, 8, samples=64)})
    with pytest.raises(ValueError, match="no maps"):
        layer_map({})
