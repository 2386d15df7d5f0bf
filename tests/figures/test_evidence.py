"""The causal evidence: every line is the table's, and tables that do not fit are refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridgework.figures import causal_evidence

DEPTH = np.linspace(0, 1, 5)


def attribution(subject="scenes-vlm", method="ablation", modality="image", timestep=None) -> pd.DataFrame:
    value = 2 * DEPTH
    return pd.DataFrame({
        "subject": subject, "timestep": timestep, "method": method, "modality": modality, "depth": DEPTH,
        "attribution": value, "low": value - 1, "high": value + 1, "gain": 4.0, "samples": 12,
    })  # fmt: skip


def attention(subject="scenes-vlm", timestep=None) -> pd.DataFrame:
    pairs = [("text", "image", 0.6), ("image", "text", 0.1), ("text", "other", 0.3)]
    return pd.concat([
        pd.DataFrame({
            "subject": subject, "timestep": timestep, "query": query, "key": key, "depth": DEPTH, "mass": mass,
            "low": mass - 0.01, "high": mass + 0.01, "expected": 0.5, "samples": 128,
        })
        for query, key, mass in pairs
    ])  # fmt: skip


def conflict(subject="scenes-vlm", tasks="a x b") -> pd.DataFrame:
    return pd.DataFrame({
        "subject": subject, "tasks": tasks, "depth": DEPTH, "conflict": DEPTH / 5, "low": 0, "high": 0.3, "batches": 12,
    })  # fmt: skip


def lines(ax) -> dict[str, list[float]]:
    return {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}


def test_one_row_of_panels_a_subject():
    both = ("scenes-vlm", "scenes-dit")
    times = {"scenes-vlm": None, "scenes-dit": 0.8}
    figure = causal_evidence(
        pd.concat([attribution(s, timestep=times[s]) for s in both]),
        pd.concat([attention(s, times[s]) for s in both]),
        pd.concat([conflict(s) for s in both]),
    )
    assert len(figure.axes) == 6
    assert [ax.get_title(loc="left") for ax in figure.axes[::3]] == list(both)


def test_lines_are_the_tables():
    table = pd.concat([attribution(), attribution(method="conductance", modality="text")])
    first, second, third = causal_evidence(table, attention(), conflict()).axes
    assert lines(first)["image, ablation"] == pytest.approx(DEPTH / 2)  # shares of the gain
    assert lines(first)["text, conductance"] == pytest.approx(DEPTH / 2)
    assert lines(second)["text looks at image"] == pytest.approx([0.6] * 5)
    assert lines(second)["image looks at text"] == pytest.approx([0.1] * 5)
    assert lines(third)["a x b"] == pytest.approx(DEPTH / 5)
    assert len(first.collections) == 1  # the band of the ablation alone
    assert len(second.collections) == 2


def test_a_subject_without_a_table_has_no_panel():
    figure = causal_evidence(attribution(), attention(), conflict("another"))
    assert len(figure.axes) == 2


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="attention has several timesteps"):
        causal_evidence(attribution(), pd.concat([attention(timestep=0.2), attention(timestep=0.8)]), conflict())
    with pytest.raises(ValueError, match="causal_evidence, conflict: missing columns batches"):
        causal_evidence(attribution(), attention(), conflict().drop(columns="batches"))
