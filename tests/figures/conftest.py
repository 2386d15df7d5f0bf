from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bridgework.probes.plans.bridge_plan import BridgePlan


class LoosePlan(BridgePlan):
    """A plan that nobody checks, and that a test may change."""

    def __post_init__(self) -> None:
        pass

    __setattr__ = object.__setattr__  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def curve():
    """A maker of tables as alignment_curve returns them, with smooth, made-up scores."""

    def make(subject="scenes-vlm", task="understanding", blocks=12, timestep=None, control=None, lift=0.1, **columns):
        depth = np.linspace(0, 1, blocks + 1)
        score = 0.02 + lift * (depth if task == "understanding" else np.sin(np.pi * depth))
        table = {
            "subject": subject,
            "task": task,
            "pass": "separate",
            "timestep": timestep,
            "pooling": "mean",
            "layer": ["embeddings", *map(str, range(blocks))],
            "depth": depth,
            "metric": "mutual_knn",
            "k": 10,
            "samples": 512,
            "score": score,
            "low": score - 0.01,
            "high": score + 0.01,
            "chance": 10 / 511,
            "null_mean": 10 / 511,
            "null95": 0.028,
            "p": 0.005,
        }
        if control is not None:
            table["control"] = control
        return pd.DataFrame({**table, **columns})

    return make


@pytest.fixture
def make_plan():
    """A maker of plans."""

    def make(pairs=((4, 5), (6, 7), (8, 9)), understanding=12, generation=16, stream="image", rule="alignment"):
        return LoosePlan(tuple(pairs), stream, rule, {}, understanding, generation)

    return make


@pytest.fixture
def make_heat():
    """A maker of tables as similarity_map returns them; every cell has its own value."""

    def make(understanding=12, generation=16, embeddings=True, **attrs):
        first = ["embeddings"] if embeddings else []
        rows, columns = ([*first, *map(str, range(n))] for n in (understanding, generation))
        values = np.arange(len(rows) * len(columns)).reshape(len(rows), len(columns)) / (len(rows) * len(columns))
        heat = pd.DataFrame(
            values, pd.Index(rows, name="understanding layer"), pd.Index(columns, name="generation layer")
        )
        heat.attrs = {"metric": "mutual_knn", "k": 10, "samples": 512, "chance": 10 / 511, **attrs}
        return heat

    return make


def _drawn_texts(figure):
    """(words, box in pixels) of every text that is really drawn: ticks outside the view are not."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    hidden = set()
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not ax.axison or not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts]


@pytest.fixture
def assert_readable():
    """Check that no text leaves the figure and that no two texts lie on each other."""

    def check(figure):
        texts = _drawn_texts(figure)
        assert texts
        edge = figure.bbox
        for words, box in texts:
            inside = box.x0 >= edge.x0 - 1 and box.y0 >= edge.y0 - 1 and box.x1 <= edge.x1 + 1 and box.y1 <= edge.y1 + 1
            assert inside, f"{words!r} leaves the figure: {box} of {edge}"
        for (one, a), (other, b) in combinations(texts, 2):
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            tall = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 1 or tall <= 1, f"{one!r} and {other!r} overlap by {wide:.1f} x {tall:.1f} pixels"

    return check


@pytest.fixture
def words():
    """All drawn text of a figure, one string."""
    return lambda figure: "\n".join(text for text, _ in _drawn_texts(figure))
