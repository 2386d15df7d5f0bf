"""Install from a folder what a machine without network lacks. Of other packages this module uses packaging alone."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.utils import parse_wheel_filename
from packaging.version import Version

# What the benchmark imports, and the lowest version that does, as pyproject.toml says.
NEEDED = {
    "accelerate": "1.10",
    "diffusers": "0.36",
    "filelock": "3",
    "greenlet": "3",
    "lazy_loader": "0.6",
    "pandas": "2.2",
    "peft": "0.18",
    "pillow": "11",
    "safetensors": "0.5",
    "scikit-learn": "1.5",
    "scipy": "1.13",
    "threadpoolctl": "3.5",
    "torch": "2.11",
    "transformers": "5.10",
}


def installed(name: str) -> Version | None:
    """Return the version of a package that is installed, or None."""
    try:
        return Version(version(name))
    except PackageNotFoundError:
        return None


def lacking() -> list[str]:
    """Return the packages that the benchmark needs and that are missing or too old, as pip takes them."""
    found = {name: installed(name) for name in NEEDED}
    return [f"{name}>={NEEDED[name]}" for name, has in found.items() if has is None or has < Version(NEEDED[name])]


def install(folder: Path, target: Path) -> list[str]:
    """Install the wheels of a folder that are missing or newer than what is installed, without network.

    Packages that are installed are left alone: the wheels go into a folder that this process and those that it starts
    search first.

    Parameters
    ----------
    folder : Path
        Where the wheels lie.
    target : Path
        Where they are installed.

    Returns
    -------
    list of str
        The names of the wheels that were installed.

    Raises
    ------
    FileNotFoundError
        There are no wheels in the folder.
    RuntimeError
        pip cannot install them.
    """
    wheels = {file: parse_wheel_filename(file.name)[:2] for file in sorted(folder.glob("*.whl"))}
    if not wheels:
        raise FileNotFoundError(f"{folder} holds no wheels: fetch them by pip download (benchmarks/README.md)")
    wanted = [file for file, (name, new) in wheels.items() if (has := installed(name)) is None or has < new]
    if wanted:
        # Without --no-deps pip would look for torch in the folder: into a target it installs all that is needed anew.
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--find-links", str(folder)]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *map(str, wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise RuntimeError(f"pip cannot install {', '.join(file.name for file in wanted)}: {''.join(reason)}")
        sys.path.insert(0, str(target))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
        importlib.invalidate_caches()
    return [file.name for file in wanted]
