"""The bundled emoji, loaded once for all tests of stimuli."""

from __future__ import annotations

import pytest

from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.probes.stimuli.stimulus_set import Stimuli


@pytest.fixture(scope="module")
def noto() -> Stimuli:
    return load_stimuli("noto")
