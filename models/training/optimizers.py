"""Build the optimizers of a training run: Muon for matrices of blocks and bridges, AdamW for all else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Names of the matrices of blocks and bridges. Muon is made for these, and not for norms, modulations or embeddings.
_HIDDEN = re.compile(r"(block|blocks|layers|bridges)\.\d+\.(?!.*(norm|relative|modulation|tokens))")


def build_optimizers(
    named: list[tuple[str, nn.Parameter]],
    learning_rate: float,
    muon: float | None,
    lr_scale: Callable[[str], float],
    together: bool,
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of named parameters: AdamW, Muon or both.

    Parameters
    ----------
    named : list of (str, torch.nn.Parameter)
        The trained parameters with their names.
    learning_rate : float
        Learning rate of AdamW.
    muon : float or None
        Learning rate of Muon for the matrices of blocks and bridges. None leaves them to AdamW.
    lr_scale : Callable[[str], float]
        Factor on the learning rate of a parameter, by the parameter's name.
    together : bool
        Whether AdamW takes the matrices as well, at Muon's rate, so that there is one optimizer.

    Returns
    -------
    list of torch.optim.Optimizer
        AdamW first. An optimizer without parameters is left out.
    """

    def groups(names: list[str], rate: float) -> list[dict[str, Any]]:
        scales = {name: lr_scale(name) for name in names}
        return [
            {"params": [parameters[name] for name in names if scales[name] == scale], "lr": rate * scale}
            for scale in sorted(set(scales.values()))
        ]

    parameters = dict(named)
    hidden = {name: p for name, p in named if muon and p.ndim == 2 and _HIDDEN.search(name)}
    rest = groups([name for name in parameters if name not in hidden], learning_rate)
    matrices = groups(list(hidden), muon or 0.0)
    if together:
        rest, matrices = rest + matrices, []
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True))
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=muon or 0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return optimizers
