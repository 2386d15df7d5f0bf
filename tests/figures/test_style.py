from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from IPython.core.formatters import DisplayFormatter

import bridgework.figures
from bridgework.figures import alignment_curves
from bridgework.figures.style import panels


def test_the_callers_style_neither_changes_nor_leaks_in(curve):
    with mpl.rc_context({"font.size": 20, "ytick.labelsize": 20, "axes.facecolor": "black"}):
        figure = alignment_curves(curve())
        assert mpl.rcParams["font.size"] == 20
        ax = figure.axes[0]
        assert ax.get_facecolor()[:3] == (1, 1, 1)
        assert {label.get_fontsize() for label in (*ax.get_xticklabels(), *ax.get_yticklabels())} == {8}


def test_nothing_is_shown(curve, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("plt.show was called"))
    alignment_curves(curve())


def test_every_public_name_exists_and_says_what_it_is():
    assert "plan_outcomes" in dir(bridgework.figures)
    for name in dir(bridgework.figures):
        assert getattr(bridgework.figures, name).__doc__


def test_figures_import_only_result_types_the_table_of_layouts_and_writing_of_files():
    folder = Path(bridgework.figures.__file__).parent
    files = [path for path in folder.rglob("*.py") if "explorer" not in path.parts]  # the explorer measures
    sources = "\n".join(path.read_text(encoding="utf-8") for path in files)
    imports = re.findall(r"^\s*from \.+((?:probes|models|studies)\S* import .*)", sources, flags=re.MULTILINE)
    assert set(imports) == {
        "probes.arguments import checked",
        "probes.arguments import checked, file_name",
        "probes.curves.table_checks import check_layer_map",
        "probes.curves.table_checks import holds_numbers",
        "probes.files import write_atomically",
        "probes.plans.bridge_plan import BridgePlan",
        "probes.plans.layout_table import LAYOUTS",
    }
    assert "import bridgework" not in sources and "from bridgework" not in sources


@pytest.mark.parametrize(("backend", "kept"), [("module://matplotlib_inline.backend_inline", False), ("agg", True)])
def test_a_figure_at_the_end_of_a_cell_is_drawn_once(monkeypatch, backend, kept):
    figure, _ = panels(1, 1, (2, 2))
    monkeypatch.setattr(mpl, "get_backend", lambda: backend)
    DisplayFormatter().format(figure)
    assert plt.fignum_exists(figure.number) == kept  # what pyplot still holds is drawn when the cell ends
    plt.close(figure)
