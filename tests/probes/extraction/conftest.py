"""Subjects and stimuli small enough to compute by hand, for the tests of extraction."""

from __future__ import annotations

import pytest
import torch

from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.probes.toys import Stack, Toy, letters


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy(Stack())


@pytest.fixture
def swept(toy) -> Toy:
    toy.timed_tasks, toy.tasks = ("generation",), ("generation",)
    return toy


@pytest.fixture
def stimuli() -> Stimuli:
    return letters("a", "bc", "def", "ghij", "klmno", "p", "qr")
