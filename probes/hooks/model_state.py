"""Models made ready for a run, and left as they were: evaluation mode, device, what accelerate has laid out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """These modules in evaluation mode; the training flag of each part comes back, after an exception too."""
    flags = [(each, each.training) for module in modules for each in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes, also while accelerate keeps its weights elsewhere."""
    places = {p.device for p in model.parameters()} or {torch.device("cpu")}
    if torch.device("meta") in places:
        hooks = [hook for m in model.modules() if (hook := getattr(m, "_hf_hook", None)) is not None]
        places = {torch.device(d) for d in (getattr(hook, "execution_device", None) for hook in hooks) if d is not None}
    return sorted(places, key=str)[0] if places else torch.device("cpu")


def dispatched(model: nn.Module) -> bool:
    """Whether accelerate has laid the model out, over devices or on the CPU between uses."""
    return bool(getattr(model, "hf_device_map", None)) or any(hasattr(m, "_hf_hook") for m in model.modules())
