"""The folder for what is fetched once and kept: real weights and picture sets."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """$BRIDGEWORK_HOME, else ~/.cache/bridgework."""
    return Path(os.environ.get("BRIDGEWORK_HOME") or Path.home() / ".cache" / "bridgework").expanduser().absolute()
