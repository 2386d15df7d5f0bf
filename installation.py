"""Say what an installation has: versions, devices, weights and pictures, and what is missing."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from platform import platform, python_version
from typing import NamedTuple

import pandas as pd
from packaging.requirements import Requirement

FINE, ABSENT, WRONG = "fine", "absent", "wrong"  # what is absent is not needed by all; what is wrong stops something
SETTINGS = (
    "OMP_NUM_THREADS",
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "BRIDGEWORK_HOME",
    "BRIDGEWORK_TRACEBACK",
)


class Finding(NamedTuple):
    """One row: what was looked for, what was found, whether that is fine, and what to do if not."""

    part: str
    found: str
    verdict: str = FINE
    remedy: str = ""


def describe_installation() -> pd.DataFrame:
    """Return what is installed, which devices there are, and which weights and pictures were fetched.

    Returns
    -------
    DataFrame
        Columns: part, found, verdict ("fine"; "absent", which only some calls need; "wrong", which stops something) and
        remedy. Nothing is downloaded, and no model is loaded.

    See Also
    --------
    check_model : Checks a model, as this checks the machine that it runs on.

    Examples
    --------
    >>> describe_installation().query("verdict != 'fine'")
    """
    return pd.DataFrame([Finding("python", f"{python_version()} on {platform(terse=True)}"), *_all_but_python()])


def _all_but_python() -> list[Finding]:
    return [
        *_packages(),
        *_torchvision(),
        *_private_names(),
        *_devices(),
        *_settings(),
        *_weights(),
        *_pictures(),
        _disk(),
    ]


def _packages() -> list[Finding]:
    """Compare what is installed with what the package asks for."""
    rows = [Finding("bridgework", version("bridgework"))]
    for text in requires("bridgework") or ():
        wanted = Requirement(text)
        extra = str(wanted.marker).partition("extra == ")[2].strip("\"'") if wanted.marker else ""
        name = wanted.name
        try:
            found = version(name)
        except PackageNotFoundError:
            if extra:
                rows.append(Finding(name, "not installed", ABSENT, f'pip install "bridgework[{extra}]"'))
            else:
                rows.append(Finding(name, "not installed", WRONG, f'pip install "{name}{wanted.specifier}"'))
            continue
        fits = wanted.specifier.contains(found, prereleases=True)
        remedy = "" if fits else f'pip install "{name}{wanted.specifier}"'
        rows.append(
            Finding(name, found if fits else f"{found}, expected {wanted.specifier}", FINE if fits else WRONG, remedy)
        )
    return rows


def _torchvision() -> list[Finding]:
    """Return a row where torchvision is there and does not fit torch, which breaks imports of transformers."""
    if find_spec("torchvision") is None:
        return []
    try:
        found = str(import_module("torchvision").__version__)
    except Exception as error:  # a build for another torch fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [
            Finding(
                "torchvision", f"cannot be imported: {reason}", WRONG, "pip uninstall torchvision: it is not needed"
            )
        ]
    return [Finding("torchvision", found)]


def _private_names() -> list[Finding]:
    """Return a row for each private name of a library that is used and is gone."""
    from .probes.private_names import missing_names

    return [Finding("private names", sentence, WRONG) for sentence in missing_names()]


def _devices() -> list[Finding]:
    import torch

    rows = [Finding("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")]
    if not torch.cuda.is_available():
        build = torch.version.cuda or torch.version.hip
        why = f"torch is built for {build} and finds none" if build else "torch is a CPU build"
        return [*rows, Finding("gpu", why, ABSENT, "install the CUDA build of torch where there is a GPU")]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        rows.append(Finding(f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"))
    return rows


def _settings() -> list[Finding]:
    return [Finding(name, value) for name in SETTINGS if (value := os.environ.get(name)) is not None]


def _weights() -> list[Finding]:
    from .models.experts.downloads.weights import WEIGHTS, verify

    rows = []
    for name in WEIGHTS:
        try:
            rows.append(Finding(name, str(verify(name))))
        except FileNotFoundError:
            rows.append(Finding(name, "weights are not fetched", ABSENT, "bridgework fetch weights"))
        except ValueError as error:
            rows.append(Finding(name, str(error), WRONG, "bridgework fetch weights"))
    return rows


def _pictures() -> list[Finding]:
    from .probes.stimuli.picture_sets import PICTURE_SETS, fetched

    rows = []
    for name in PICTURE_SETS:
        try:
            rows.append(Finding(name, str(fetched(name))))
        except FileNotFoundError:
            rows.append(Finding(name, "pictures are not fetched", ABSENT, "bridgework fetch pictures"))
    return rows


def _disk() -> Finding:
    from .probes.files import home

    folder = next(path for path in (home(), *home().parents) if path.exists())
    return Finding("cache", f"{home()}, {shutil.disk_usage(folder).free / 2**30:.0f} GiB free")
