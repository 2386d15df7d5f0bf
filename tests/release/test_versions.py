"""The version is one in all places, lower bounds are those that were tested, and what `make` installs has hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bridgework.benchmarks.robustness.versions import LIBRARIES, RESULTS, lower_bound, requirements_of

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def test_the_version_is_one():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.findall(r"^## (\S+), (\S+)$", changes, re.MULTILINE)[0]
    assert version == PROJECT["version"]
    assert f"version: {version}\n" in cited and f"date-released: {date}\n" in cited


def test_the_oldest_versions_that_are_allowed_were_tested():
    table = pd.read_csv(RESULTS / "versions.csv", dtype=str).set_index(["column", "package"])
    pins = {name: version for name, version in map(plain, requirements_of("oldest")) if name in LIBRARIES}
    for library in LIBRARIES:
        oldest, latest = table.loc[("oldest", library)], table.loc[("latest", library)]
        assert Version(oldest["version"]).release[:2] == Version(pins[library]).release[:2]
        assert Version(latest["version"]) > Version(oldest["version"])
        for row in (oldest, latest):
            assert int(row["passed"]) > 100 and row["failed"] == "0"
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["built"])


def test_every_dependency_has_a_lower_bound_and_columns_pin_what_they_say():
    oldest, latest = requirements_of("oldest"), requirements_of("latest", ["torch==2.13.0"])
    assert len(oldest) == len(latest) == len(PROJECT["dependencies"])
    assert "torch==2.13.0" in latest and not [text for text in latest if text.startswith("torch>")]
    wanted = {canonicalize_name(Requirement(text).name): Requirement(text) for text in PROJECT["dependencies"]}
    for pin in map(Requirement, requirements_of("pinned")):
        (exact,) = pin.specifier
        assert exact.operator == "==" and wanted[canonicalize_name(pin.name)].specifier.contains(exact.version), pin
    assert lower_bound(Requirement("matplotlib>=3.9,<3.13")) == "matplotlib==3.9"
    with pytest.raises(ValueError, match=r"numpy in pyproject.toml has no lower bound: write one"):
        lower_bound(Requirement("numpy"))


def test_every_pinned_version_but_torch_has_hashes():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    text = (ROOT / "constraints-hashed.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    parts = re.split(r"^(?=\S)", "\n".join(lines), flags=re.MULTILINE)[1:]
    hashed = {part.split()[0]: HASH.findall(part) for part in parts}
    assert {*map(plain, hashed)} == {plain(line) for line in pinned if not line.startswith("torch==")}, (
        "run make hashes"
    )
    assert all(hashed.values())


def plain(pin: str) -> tuple[str, str]:
    """Name and version of a pin, whatever its spelling."""
    name, _, version = pin.partition("==")
    return canonicalize_name(name), version
