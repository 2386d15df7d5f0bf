from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from bridgework.figures import alignment_curves, before_after, learning_curves, live_curve

CONTROLS = ["random weights", "mismatched captions", "pixel mean x bag of words"]


def lines(ax, depth):
    """y data of all lines that run along ``depth``."""
    return [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == len(depth)]


def holds(found, score):
    return any(np.array_equal(y, score) for y in found)


@pytest.fixture
def experts(curve):
    """Both experts, the generation expert at three timesteps, each with its controls."""
    parts = []
    for control in ["none", *CONTROLS]:
        lift = 0.1 if control == "none" else 0.01
        parts.append(curve(control=control, lift=lift))
        for place, t in enumerate((0.2, 0.5, 0.8)):
            parts.append(curve("scenes-dit", "generation", 16, t, control, lift * (1 + place)))
    return pd.concat(parts, ignore_index=True)


def test_curves_have_a_panel_per_expert_and_draw_every_score(experts, assert_readable):
    figure = alignment_curves(experts, title="Two experts")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["scenes-vlm: understanding", "scenes-dit: generation"]
    for ax, (_, rows) in zip(figure.axes, experts.groupby("subject", sort=False), strict=True):
        for _, one in rows.groupby(["control", "timestep"], dropna=False):
            assert holds(lines(ax, one), one.score.to_numpy())
    assert_readable(figure)


def test_curves_draw_interval_null_and_chance(curve):
    table = curve()
    table["null95"] = np.linspace(0.025, 0.031, len(table))
    ax = alignment_curves(table).axes[0]
    null, interval = (band.get_paths()[0].vertices for band in ax.collections)
    assert {tuple(row) for row in table[["depth", "null95"]].to_numpy()} <= {tuple(row) for row in null}
    for edge in ("low", "high"):
        assert {tuple(row) for row in table[["depth", edge]].to_numpy()} <= {tuple(row) for row in interval}
    assert any(list(line.get_ydata()) == [table.chance[0]] * 2 for line in ax.lines)


def test_curves_name_metric_k_samples_chance_and_every_line(experts, words):
    text = words(alignment_curves(experts))
    assert text.count("mutual_knn · k = 10 · N = 512 · chance 0.020") == 2
    for label in [*CONTROLS, "t = 0.2", "t = 0.8", "understanding", "chance", "null", "interval", "relative depth"]:
        assert label in text


def test_curves_leave_out_a_k_that_does_not_apply(curve, words):
    text = words(alignment_curves(curve(metric="cka", k=None, chance=0.0)))
    assert "cka · N = 512 · chance 0.000" in text


def test_curves_colour_timesteps_apart_and_break_only_controls(experts):
    ax = alignment_curves(experts).axes[1]
    main = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(main) == 3 and len({to_hex(line.get_color()) for line in main}) == 3
    assert all(line.get_linestyle() == "-" for line in main)
    broken = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len([line for line in broken if len(line.get_xdata())]) == 9


def test_a_control_of_one_row_is_drawn_across(curve):
    control = curve(control="pixel mean x bag of words", lift=0).head(1).assign(score=0.033)
    ax = alignment_curves(pd.concat([curve(control="none"), control])).axes[0]
    assert any(list(line.get_ydata()) == [0.033] * 2 and list(line.get_xdata()) == [0, 1] for line in ax.lines)


def test_other_samples_metrics_or_passes_get_their_own_panel(curve, assert_readable, words):
    tables = [curve(), curve(samples=64), curve(metric="cka", k=None), curve(**{"pass": "joint"})]
    figure = alignment_curves(pd.concat(tables))
    assert len(figure.axes) == 4
    assert "N = 64" in words(figure) and "(joint pass)" in words(figure)
    assert_readable(figure)


def test_curves_of_two_models_name_both(curve, assert_readable, words):
    named = {"modality": "image", "reference": "minilm-l6", "reference_modality": "text"}
    own, layers = curve("dinov2-s"), [curve("dinov2-s", lift=0.05, reference_layer=n, **named) for n in ("3", "5")]
    figure = alignment_curves(pd.concat([own, *layers]))
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes]
    assert titles[0] == "dinov2-s: understanding"
    assert titles[1:] == [f"dinov2-s (image) × minilm-l6 (text), layer {n}" for n in ("3", "5")]
    assert_readable(figure)
    control = layers[1].assign(control="random weights", score=0.02)
    drawn = alignment_curves(pd.concat([layers[1], control]))
    assert "control: random weights" in words(drawn)
    with pytest.raises(ValueError, match=r"no curve to control for: .*reference_layer 5"):
        alignment_curves(pd.concat([layers[0], control]))


def test_long_names_stay_inside(curve, assert_readable):
    assert_readable(alignment_curves(curve("some-organisation/Some-Vision-Language-Model-3B-Instruct")))


def test_curves_refuse_what_is_no_curve(curve):
    with pytest.raises(TypeError, match=r"expected a pandas\.DataFrame from alignment_curve, got list"):
        alignment_curves([1, 2])
    with pytest.raises(ValueError, match="missing columns low, high: pass a table from alignment_curve"):
        alignment_curves(curve().drop(columns=["low", "high"]))
    with pytest.raises(ValueError, match="no rows"):
        alignment_curves(curve().head(0))
    with pytest.raises(ValueError, match="unknown control 'noise': expected none, random weights"):
        alignment_curves(curve(control="noise"))
    with pytest.raises(ValueError, match="no curve to control for: subject twin"):
        alignment_curves(pd.concat([curve(), curve("twin", control="random weights")]))


def test_curves_of_unlike_numbers_share_no_axis(curve):
    figure = alignment_curves(pd.concat([curve(), curve(samples=128, chance=10 / 127, lift=0.5)]))
    first, second = figure.axes
    assert first.get_ylim() != second.get_ylim()
    alike = alignment_curves(pd.concat([curve(), curve("scenes-dit", "generation", lift=0.5)])).axes
    assert alike[0].get_ylim() == alike[1].get_ylim()


def test_curves_of_other_stimuli_are_refused_under_one_name(curve):
    with pytest.raises(ValueError, match=r"layer 'embeddings' of 'scenes-vlm' .* has several scores: draw one curve"):
        alignment_curves(pd.concat([curve(pairing="one"), curve(pairing="other")]))
    control = curve(control="random weights", pairing="other")
    with pytest.raises(ValueError, match="the control 'random weights' of 'scenes-vlm' was measured on other stimuli"):
        alignment_curves(pd.concat([curve(pairing="one"), control]))
    assert alignment_curves(pd.concat([curve(pairing="one"), control.assign(pairing="one")])).axes


@pytest.fixture
def fused(curve):
    def make(lift):
        parts = [curve("fused", "generation", 16, t, lift=lift) for t in (0.2, 0.5, 0.8)]
        return pd.concat([*parts, curve("fused")], ignore_index=True)

    return make


def test_before_after_draws_both_and_their_difference(fused, assert_readable):
    before, after = fused(0.1), fused(0.13)
    figure = before_after(before, after)
    assert len(figure.axes) == 8
    top, low = figure.axes[:4], figure.axes[4:]
    titles = [ax.get_title(loc="left") for ax in top]
    assert titles == ["understanding", "generation, t = 0.2", "generation, t = 0.5", "generation, t = 0.8"]
    order = [before.timestep.isna(), before.timestep == 0.2, before.timestep == 0.5, before.timestep == 0.8]
    for one, two, rows in zip(top, low, order, strict=True):
        old, new = before.score[rows].to_numpy(), after.score[rows].to_numpy()
        assert holds(lines(one, old), old) and holds(lines(one, old), new)
        assert holds(lines(two, old), new - old)
    assert [text.get_text() for ax in low for text in ax.texts] == ["unchanged"]
    assert_readable(figure)


def test_before_after_names_what_was_measured(fused, words):
    text = words(before_after(fused(0.1), fused(0.2)))
    for label in ("k = 10", "N = 512", "chance 0.020", "before training", "after training", "after − before"):
        assert label in text


def test_before_after_refuses_unlike_measurements(fused, curve):
    for change in ({"k": 5}, {"samples": 64}):
        with pytest.raises(ValueError, match="in only one of the two tables: measure both in the same way"):
            before_after(fused(0.1), fused(0.1).assign(**change))
    with pytest.raises(ValueError, match="layer 11"):
        before_after(curve(), curve().iloc[:-1])
    with pytest.raises(ValueError, match="after has several scores for one layer"):
        before_after(curve(), pd.concat([curve(), curve("other")]))
    with pytest.raises(ValueError, match="after: missing columns p"):
        before_after(curve(), curve().drop(columns="p"))


def test_learning_curves_draw_every_loss(assert_readable, words):
    log = pd.DataFrame({"step": range(1, 21), "loss": np.geomspace(2, 0.05, 20), "name": "alignment"})
    log = pd.concat([log, log.assign(name="random", loss=log.loss * 1.5)])
    figure = learning_curves(log)
    ax = figure.axes[0]
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata())]
    assert [list(y) for y in drawn] == [list(rows.loss) for _, rows in log.groupby("name")]
    assert ax.get_yscale() == "log"
    assert {"alignment", "random", "step", "loss", "0.1"} <= set(words(figure).split("\n"))
    assert_readable(figure)


def test_a_long_noisy_log_gets_a_running_mean_beside_its_losses():
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"step": range(400), "loss": rng.normal(1, 0.1, 400), "name": "a"})
    ax = learning_curves(log).axes[0]
    raw, mean = (line.get_ydata() for line in ax.lines if len(line.get_xdata()))
    assert np.array_equal(raw, log.loss) and np.std(mean) < np.std(raw) / 2
    assert ax.get_yscale() == "linear"


def test_learning_curves_refuse_another_table():
    with pytest.raises(ValueError, match="learning_curves: missing columns name"):
        learning_curves(pd.DataFrame({"step": [1], "loss": [1.0]}))


def training_log(lines, every=25):
    checked = {step: {"validation_loss": 0.9 / (1 + step)} for step in range(every - 1, lines, every)}
    return [{"step": step, "loss": 1 / (1 + step), **checked.get(step, {})} for step in range(lines)]


def test_a_live_curve_draws_the_log_so_far_and_tells_its_newest_losses(assert_readable, words):
    log = training_log(60)
    figure = live_curve(log)
    losses = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata())]
    assert list(losses[0]) == [line["loss"] for line in log]
    assert list(losses[-1]) == [line["validation_loss"] for line in log if "validation_loss" in line]
    assert "step 59: loss 0.0167, validation 0.018" in words(figure)
    assert_readable(figure)


def test_a_live_curve_begins_with_one_line_and_without_validation(assert_readable, words):
    figure = live_curve(training_log(1))
    assert "step 0: loss 1" in words(figure) and "validation" not in words(figure)
    assert_readable(figure)


def test_live_curves_do_not_pile_up():
    """A notebook redraws one at every line of the log, and shows what pyplot holds at the end of a cell."""
    before = plt.get_fignums()
    live_curve(training_log(3))
    assert plt.get_fignums() == before


def test_a_live_curve_is_empty_before_the_first_line(words):
    assert "no steps yet" in words(live_curve([]))


def test_a_live_curve_needs_losses():
    with pytest.raises(ValueError, match="live_curve: missing columns loss"):
        live_curve([{"step": 0}])
