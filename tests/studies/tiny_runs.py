"""A tiny budget, and what makes a run of the studies cheap where no test looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from torch import nn

from bridgework.models.experts import opening
from bridgework.models.towers import finding
from bridgework.models.towers.tower import Tower
from bridgework.probes.curves import curve
from bridgework.studies import alignment_curves, fused_models
from bridgework.studies.settings import Budget

TINY = Budget(samples=32, bridges=2, steps=2, seeds=1, each=1, batch_size=4, sampling_steps=2, batches=1)


def make_cheap(patch: pytest.MonkeyPatch) -> None:
    """Open experts and find their towers once, and let nulls and intervals rest on few draws."""
    find, towers = finding.find_tower, {}

    def find_once(model: nn.Module, run: Callable[[], Any], **where: Any) -> Tower:
        key = (id(model), *sorted(where.items()))
        if key not in towers:
            towers[key] = find(model, run, **where)
        return towers[key]

    replace_everywhere(patch, opening.open_expert, cache(opening.open_expert))
    replace_everywhere(patch, find, find_once)
    patch.setattr(curve, "curve_draws", partial(curve.curve_draws, splits=4))
    for module in (alignment_curves, fused_models):
        patch.setattr(module, "alignment_curve", partial(curve.alignment_curve, permutations=20))


def replace_everywhere(patch: pytest.MonkeyPatch, function: Callable, other: Callable) -> None:
    """Put another function in place of one in every module that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bridgework.") and vars(module).get(function.__name__) is function:
            patch.setattr(module, function.__name__, other)
