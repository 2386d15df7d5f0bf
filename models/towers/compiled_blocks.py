"""Visit models whose blocks were compiled by torch, and refuse those that were compiled around their blocks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ...probes.hooks.block_stacks import find_block


def put(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is left; then it is where it was before, on the object or on its class.

    Parameters
    ----------
    stack : contextlib.ExitStack
        The stack whose end restores the attribute.
    owner : Any
        The object.
    name : str
        The attribute's name.
    value : Any
        Its value until then.
    """
    attributes = vars(owner)
    if name in attributes:
        stack.callback(setattr, owner, name, attributes[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def uncompile(stack: ExitStack, module: nn.Module) -> None:
    """Let a module run as it did before it was compiled, until the stack is left."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        put(stack, module, "_compiled_call_impl", None)
    if isinstance(module, torch._dynamo.OptimizedModule):
        put(stack, module, "forward", module._orig_mod.__call__)


def check_parents(model: nn.Module, path: str) -> None:
    """Raise ValueError where a module around the block is compiled: its graph does not call the block's hooks.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    path : str
        The block's dotted path.
    """
    names = path.split(".")
    for count in range(len(names)):
        parent = model.get_submodule(".".join(names[:count]))
        whole = isinstance(parent, torch._dynamo.OptimizedModule) and parent is not find_block(model, path)
        if whole or getattr(parent, "_compiled_call_impl", None) is not None:
            raise ValueError(
                f"{type(model).__name__} is compiled around block {path!r}, which hides it from visits: compile the "
                "blocks one by one instead, as block.compile()"
            )
