"""What a reader does in a real JupyterLab: run all cells of a notebook, and take a plan from the explorer."""

from __future__ import annotations

import shutil
import time

import nbformat
import psutil
import pytest

from bridgework.probes import BridgePlan
from bridgework.tests.browser.chromium import find_chromium
from bridgework.tests.browser.jupyterlab import JupyterLab
from bridgework.tests.test_style import NOTEBOOKS, ROOT

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed: make browser")

EXPLORE = """
from bridgework import figures
from bridgework.tests.figures.explorer.explored import make_features, make_stimuli
sides = make_features(60, 4, 1), make_features(60, 3, 2, (.2, .7))
explorer = figures.explorer(*sides, make_stimuli(60), draws=10, bridges=1, k=5)
explorer
"""
HANDLE = "document.querySelector('.bw-explorer').explorer"
PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
LONG = ("02_curves", "05_trust", "06_real_curves")  # half of the time of all
MINUTES = 15  # of a notebook, on a machine that does much else


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    for notebook in NOTEBOOKS:
        shutil.copy(ROOT / notebook, folder)
    sources = EXPLORE, 'explorer.plan.save("plan.json")'
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=PYTHON), folder / "explore.ipynb")
    with JupyterLab(folder) as lab:
        yield lab
        started = psutil.Process().children(recursive=True)
    end = time.monotonic() + 20
    while any(map(is_alive, started)):  # server, kernel, browser
        assert time.monotonic() < end, [process for process in started if is_alive(process)]
        time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_plan_that_is_dragged_arrives_in_the_next_cell(lab):
    pytest.importorskip("anywidget")
    page = lab.page
    lab.open("explore.ipynb")
    lab.run_all()
    page.until(f"document.querySelector('.bw-explorer') && {HANDLE}.view().noise", 300)

    def cell_at(row: int, column: int) -> tuple[float, float]:
        return page.centre(f"document.querySelectorAll('.bw-map > g rect')[{row * 4 + column}]")

    page.show(".bw-map")
    place = page.centre("document.querySelector('.bw-map')")
    page.mouse("mouseMoved", *cell_at(1, 1))
    assert "understanding 0 × generation 0" in page.run("document.querySelector('.bw-readout').innerText")
    ((u, g),) = page.run(f"{HANDLE}.state().pairs")
    page.drag(cell_at(u + 1, g + 1), cell_at(4, 3))
    assert page.run(f"{HANDLE}.state().pairs") == [[3, 2]] != [[u, g]]
    assert "drawn by hand" in page.run("document.querySelector('.bw-plan').innerText")
    assert page.centre("document.querySelector('.bw-map')") == place  # panels that grow do not scroll the map away
    lab.run_cell(1)
    plan = BridgePlan.load(lab.folder / "plan.json")
    assert (plan.pairs, plan.rule) == (((3, 2),), "by hand")
    page.show(".bw-map")
    page.click(*cell_at(1, 1))
    assert "square" in page.run("document.querySelector('.bw-stimuli article').innerText")
    page.press("ArrowUp")
    page.press("b")
    assert page.run(f"{HANDLE}.state().pairs") == [[1, 0], [3, 2]]
    page.run("document.querySelector('input[aria-label=k]').focus()")
    page.press("ArrowUp")  # a command of JupyterLab's too: go to another cell, where B inserts one
    page.press("b")
    assert page.run(f"{HANDLE}.state().k") == 6
    assert page.run("panel.content.widgets.length") == 2
    assert not page.errors
    lab.shut()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_all_cells_of_a_notebook_run(lab, notebook, pytestconfig):
    if notebook.stem in LONG and not pytestconfig.getoption("all_notebooks"):
        pytest.skip("it takes long, and nbval runs it: make jupyterlab")
    lab.open(notebook.name)
    cells = [
        cell for cell in lab.run_all(60 * MINUTES) if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]
    broken = lab.broken_outputs()
    lab.shut()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert not broken
