"""Recognise diffusion models whose blocks would return states of earlier steps."""

from __future__ import annotations

from torch import nn

REGISTRY = "_diffusers_hook"  # the attribute by which diffusers hooks a module
GUIDING = ("SkipHook", "SmoothedEnergyGuidanceHook")  # its hooks that keep no state and change what blocks do


def check_no_cache(model: nn.Module) -> None:
    """Raise an error for a diffusers model with a cache or a layer skip switched on.

    Caches (FasterCache, Pyramid Attention Broadcast, FirstBlockCache, MagCache, TaylorSeer, SeaCache, text key-value)
    let blocks return what they gave in an earlier step, or extrapolate from it. Such states belong to another timestep
    and another sample. All caches are hooks with a state; the hooks of offloading and casting have none.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Raises
    ------
    RuntimeError
        A cache or a layer skip is on.
    """
    for path, module in model.named_modules():
        registry = getattr(module, REGISTRY, None)
        for hook in getattr(registry, "hooks", {}).values():
            kind = type(hook).__name__
            what = f"{kind} on {path or 'the model itself'!r} of {type(model).__name__}"
            if getattr(hook, "_is_stateful", False):
                raise RuntimeError(
                    f"{what} is a cache: its blocks return states of earlier steps. Call disable_cache() on the model"
                )
            if kind.endswith(GUIDING):
                raise RuntimeError(f"{what} skips or blurs parts for guidance: probe the model without it")
