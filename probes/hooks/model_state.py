"""Walk over models: switch them to evaluation mode and back, freeze them, find their device and what hooks them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ..private_names import ACCELERATE_HOOK, DIFFUSERS_HOOK, children_of, parameters_of
from ..single_contexts import single_context

OFFLOADING = (ACCELERATE_HOOK, DIFFUSERS_HOOK)  # by which accelerate and diffusers hook modules that they move


def walk(model: nn.Module) -> list[nn.Module]:
    """List a model and all modules inside it, each once, in no order that means anything.

    It is several times as fast as `model.modules()`, which matters where a tiny model is read again and again.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    list of torch.nn.Module
        The modules.
    """
    found = {id(model): model}
    waiting = [model]
    while waiting:
        for child in children_of(waiting.pop()).values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                if children_of(child):
                    waiting.append(child)
    return list(found.values())


def hooked(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules that accelerate or diffusers has hooked.

    Parameters
    ----------
    modules : iterable of torch.nn.Module
        Some modules.

    Returns
    -------
    list of torch.nn.Module
        Those of them that have a hook.
    """
    first, second = OFFLOADING
    return [module for module in modules if first in module.__dict__ or second in module.__dict__]


@single_context
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Keep modules in evaluation mode while the context lasts.

    The training flag of each part is restored afterwards, after an exception too.

    Parameters
    ----------
    *modules : torch.nn.Module
        The modules, with everything inside them.
    """
    flags = [(part, part.training) for module in modules for part in walk(module)]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in flags:
            part.training = training


@single_context
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Let no parameter of modules require gradients while the context lasts.

    The flag of each parameter is restored afterwards, after an exception too.

    Parameters
    ----------
    *modules : torch.nn.Module
        The modules, with everything inside them.
    """
    flags = {parameter: parameter.requires_grad for module in modules for parameter in module.parameters()}
    try:
        for parameter in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in flags.items():
            parameter.requires_grad_(required)


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model computes on, also while accelerate keeps its weights elsewhere.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    torch.device
        The first of its devices, by name; the CPU for a model without parameters.
    """
    held = (p for module in walk(model) for p in parameters_of(module).values() if p is not None)
    devices = {p.device for p in held} or {torch.device("cpu")}
    if torch.device("meta") in devices:
        hooks = [hook for m in model.modules() if (hook := getattr(m, ACCELERATE_HOOK, None)) is not None]
        devices = {
            torch.device(d) for d in (getattr(hook, "execution_device", None) for hook in hooks) if d is not None
        }
    return sorted(devices, key=str)[0] if devices else torch.device("cpu")


def dispatched(model: nn.Module) -> bool:
    """Return whether accelerate places the model, over several devices or on the CPU between uses.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    bool
        True for a model that was opened with a device map or is offloaded. Such a model must not be moved.
    """
    return bool(getattr(model, "hf_device_map", None)) or any(hasattr(m, ACCELERATE_HOOK) for m in walk(model))
