"""A subject and a store of its features, for the tests of features."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgework.probes.extraction.extracting import extract
from bridgework.tests.probes.toys import TEXTS, Toy, letters, open_toy


@pytest.fixture
def toy() -> Toy:
    """A fresh subject with the same weights every time."""
    return open_toy()


@pytest.fixture
def folder(toy, tmp_path) -> Path:
    """A store of two shards."""
    extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    return tmp_path / "store"
