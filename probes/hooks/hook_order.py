"""Order the forward hooks of a block: the user's, then bridges, then probes, which read what the next block gets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..private_names import forward_hooks_of


class Reader(partial):
    """Mark a forward hook of this project. It stays behind hooks that are registered by `register_before_readers`."""


def register_before_readers(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    """Register a forward hook behind the user's hooks and before those that read what the next block is given.

    Parameters
    ----------
    module : torch.nn.Module
        The block.
    hook : callable
        A forward hook (module, args, output), which may return another output.

    Returns
    -------
    torch.utils.hooks.RemovableHandle
        The handle that removes it.
    """
    hooks = forward_hooks_of(module)
    readers = [key for key, other in hooks.items() if isinstance(other, Reader)]
    handle = module.register_forward_hook(Reader(hook))
    for key in readers:
        hooks[key] = hooks.pop(key)
    return handle
