"""Choose the optimizer of each parameter."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Matrices of blocks and bridges: Muon is made for these, and for neither norms, modulations nor embeddings.
_HIDDEN = re.compile(r"(block|blocks|layers|bridges)\.\d+\.(?!.*(norm|relative|modulation|tokens))")


def build_optimizers(
    named: list[tuple[str, nn.Parameter]],
    learning_rate: float,
    muon: float | None,
    lr_scale: Callable[[str], float],
    together: bool,
) -> list[torch.optim.Optimizer]:
    def groups(names: list[str], rate: float) -> list[dict[str, Any]]:
        scales = {name: lr_scale(name) for name in names}
        return [
            {"params": [parameters[name] for name in names if scales[name] == scale], "lr": rate * scale}
            for scale in sorted(set(scales.values()))
        ]

    parameters = dict(named)
    hidden = [name for name, p in named if muon and p.ndim == 2 and _HIDDEN.search(name)]
    rest = groups([name for name in parameters if name not in set(hidden)], learning_rate)
    matrices = groups(hidden, muon or 0.0)
    if together:
        rest, matrices = rest + matrices, []
    made: list[torch.optim.Optimizer] = []
    if rest:
        made.append(torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True))
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=muon or 0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return made
