"""What `pip install` gives: one top-level name, its data, and nothing that gets in a research checkout's way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("probes", "models", "figures", "studies")
BESIDE = ("tests", "notebooks", "benchmarks", "studies/results", ".venv/lib", "weights")


def run(command: list[str | Path], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout in which every folder beside the packages holds a module."""
    checkout = tmp_path_factory.mktemp("package") / "checkout"
    skip = shutil.ignore_patterns("__pycache__", "gallery")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, checkout / name, ignore=skip)
    for file in ROOT.glob("*"):
        if file.is_file():
            shutil.copy2(file, checkout)
    for name in BESIDE:
        (checkout / name).mkdir(parents=True, exist_ok=True)
        (checkout / name / "stray.py").write_text("")
    return checkout


def build_wheel(source: Path, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run([*pip, "--wheel-dir", folder, source], cwd=source.parent)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel(checkout, tmp_path_factory) -> Path:
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_nothing_is_installed_under_a_bare_name(names):
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "bridgework" in tops
    assert any(top.startswith("bridgework-") and top.endswith(".dist-info") for top in tops)


def test_wheel_holds_every_module_and_nothing_beside_them(names):
    expected = {f"bridgework/{file.name}" for file in ROOT.glob("*.py")}
    expected |= {
        f"bridgework/{file.relative_to(ROOT).as_posix()}" for name in PACKAGES for file in (ROOT / name).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected


@pytest.mark.parametrize(
    "folder", ["probes/stimuli/noto", "models/experts/checkpoints", "studies/results/half_trained"]
)
def test_wheel_holds_all_data(names, folder):
    files = [file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    expected = {f"bridgework/{file.relative_to(ROOT).as_posix()}" for file in files}
    assert expected, f"{folder} is empty"
    assert expected <= names


def test_wheel_holds_weights_their_configs_style_and_licences(names):
    checkpoints = [name for name in names if name.startswith("bridgework/models/experts/checkpoints/")]
    assert any(name.endswith(".safetensors") for name in checkpoints)
    assert any(name.endswith("config.json") for name in checkpoints)
    assert {"bridgework/figures/style.mplstyle", "bridgework/figures/gallery.html"} <= names
    parts = [file for file in (ROOT / "figures" / "explorer").iterdir() if file.suffix in (".js", ".css", ".html")]
    assert {f"bridgework/figures/explorer/{file.name}" for file in parts} <= names and parts
    for file in ("LICENSE", "LICENSES.md"):
        assert any(name.endswith(f".dist-info/licenses/{file}") for name in names)
    noto = [Path(name).name.lower() for name in names if name.startswith("bridgework/probes/stimuli/noto/")]
    assert any("licen" in name or "ofl" in name for name in noto)


def test_the_source_archive_makes_the_same_wheel(checkout, names, tmp_path):
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    run([sys.executable, "-c", code], cwd=checkout)
    (archive,) = tmp_path.glob("bridgework-*.tar.gz")
    with zipfile.ZipFile(build_wheel(archive, tmp_path / "wheel")) as made:
        assert {name for name in made.namelist() if not name.endswith("/")} == names


def test_dependencies_leave_torchvision_out(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(path).decode()
    assert "Requires-Dist: torch>=" in metadata
    assert "torchvision" not in metadata


FOREIGN = """
import json
import models
import bridgework.figures, bridgework.models
from bridgework.models import open_expert
from bridgework.probes import load_stimuli

open_expert("scenes-dit")
open_expert("scenes-vlm")
print(json.dumps({
    "marker": models.MARKER,
    "home": bridgework.models.__file__,
    "stimuli": len(load_stimuli("noto", limit=2)),
}))
"""


def test_installed_alone_it_runs_beside_a_foreign_models_package(wheel, tmp_path):
    """Show-o, MMaDA and others own a top-level `models`: both must live in one process, data files included."""
    environment, foreign = tmp_path / "environment", tmp_path / "foreign"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    paths = {"base": str(environment), "platbase": str(environment)}
    purelib = Path(sysconfig.get_path("purelib", "venv", paths))
    python = Path(sysconfig.get_path("scripts", "venv", paths)) / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, wheel], cwd=tmp_path)
    assert not {"models", "probes", "figures", "tests"} & {path.name for path in purelib.iterdir()}

    # The dependencies are borrowed: a folder named in a .pth file adds its packages, not its own .pth files,
    # so this checkout's editable installation stays out.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (purelib / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    (foreign / "models").mkdir(parents=True)
    (foreign / "models" / "__init__.py").write_text("MARKER = 'foreign'\n")
    seen = json.loads(run([python, "-c", FOREIGN], cwd=foreign).splitlines()[-1])
    assert seen["marker"] == "foreign"
    assert Path(seen["home"]).is_relative_to(environment)
    assert seen["stimuli"] == 2
    plan = Path(seen["home"]).parents[1] / "studies" / "results" / "half_trained" / "plan.json"
    command = [python.with_name("bridgework"), "figure", "plan", plan, "--out", foreign / "plan.svg"]
    assert str(foreign / "plan.svg") in run(command, cwd=foreign)
    assert (foreign / "plan.svg").stat().st_size > 1000
