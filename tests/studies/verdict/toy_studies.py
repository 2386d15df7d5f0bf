"""A study with planted truths: outcomes and maps as the runs write them, without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from bridgework.studies.verdict.thresholds import CONTROLS

ROWS, COLUMNS, FLOOR, CEILING = 6, 5, 0.9, 0.5  # the grid, and the losses that worth 0 and 1 have
Worth = np.ndarray
FIXED = {
    "shallow": ((0, 0), (1, 1), (2, 2), (3, 3)),
    "deep": ((2, 0), (3, 1), (4, 2), (5, 3)),
    "middle": ((1, 1), (2, 2), (3, 3), (4, 4)),
    "uniform": ((0, 0), (1, 1), (3, 3), (5, 4)),
    "first": ((0, 0), (1, 1), (2, 2), (3, 3)),
    "early": ((0, 0), (1, 1), (3, 3), (5, 4)),
    "last": ((2, 1), (3, 2), (4, 3), (5, 4)),
    "all": ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)),
}


def plans(count: int = 80) -> list[tuple[tuple[int, int], ...]]:
    """Increasing plans of four bridges."""
    rng = np.random.default_rng(5)
    sides = [[sorted(rng.choice(n, 4, replace=False).tolist()) for n in (ROWS, COLUMNS)] for _ in range(count)]
    return [tuple(zip(*both, strict=True)) for both in sides]


def toy_study(
    truth: Callable[[np.random.Generator], Worth],
    rules: Mapping[str, Callable[[Worth, np.random.Generator], Worth]],
    noise: float = 0.02,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcomes and maps of four pairs: a plan is worth the mean of its cells, a rule takes the plan it scores best."""
    rng = np.random.default_rng(seed)
    rows, maps = [], []
    for pair in ("a", "b", "c", "d"):
        worth = truth(rng)
        gains = {name: make(worth, rng) for name, make in rules.items()}
        labels = {plan: [f"random {number}"] for number, plan in enumerate(dict.fromkeys(plans()))}
        for name in CONTROLS[:-1]:
            labels.setdefault(FIXED[name], []).append(name)
        four = [plan for plan in labels if len(plan) == 4]
        for name, gain in gains.items():
            labels[max(four, key=lambda plan: sum(gain[cell] for cell in plan))].append(name)
            maps += [(pair, name, u, g, gain[u, g]) for u in range(ROWS) for g in range(COLUMNS)]
        labels |= {((u, g),): ["grid"] for u in range(ROWS) for g in range(COLUMNS)}
        for one in (0, 1):
            for plan, names in labels.items():
                value = np.mean([worth[cell] for cell in plan]) + noise * rng.normal()
                rows.append((pair, json.dumps(plan), len(plan), one, json.dumps(names), value))
            rows.append((pair, json.dumps(FIXED["middle"]), 4, one, '["floor"]', 0.0))
        rows.append((pair, "[]", 0, 0, '["ceiling"]', 1.0))
    table = pd.DataFrame(rows, columns=["pair", "pairs", "bridges", "seed", "labels", "worth"])
    table["loss"] = FLOOR + (CEILING - FLOOR) * table["worth"]
    table["score"] = 0.1 + 0.6 * table["worth"]
    return table.assign(config="c1"), pd.DataFrame(
        maps, columns=["pair", "rule", "understanding", "generation", "gain"]
    )


def depth_only(rng: np.random.Generator) -> Worth:
    """A worth that both depths tell: the earlier, the better."""
    u, g = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    return 0.8 - 0.06 * u - 0.075 * g + 0.02 * rng.normal(size=(ROWS, COLUMNS))


def scattered(rng: np.random.Generator) -> Worth:
    """A worth that no depth tells."""
    return rng.uniform(0, 1, size=(ROWS, COLUMNS))
