"""What a compiled model is told while its blocks are visited."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ...probes.hooks.block_stacks import find_block


def put(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is left, and leave it where it was: on the object or on its class."""
    there = vars(owner)
    stack.callback(setattr, owner, name, there[name]) if name in there else stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def uncompile(stack: ExitStack, module: nn.Module) -> None:
    """Let a module run as it was before it was compiled, until the stack is left."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        put(stack, module, "_compiled_call_impl", None)
    if isinstance(module, torch._dynamo.OptimizedModule):
        put(stack, module, "forward", module._orig_mod.__call__)


def check_parents(model: nn.Module, path: str) -> None:
    """Raises ValueError where a module around the block is compiled: its graph does not see what is hung on a block."""
    names = path.split(".")
    for at in range(len(names)):
        parent = model.get_submodule(".".join(names[:at]))
        whole = isinstance(parent, torch._dynamo.OptimizedModule) and parent is not find_block(model, path)
        if whole or getattr(parent, "_compiled_call_impl", None) is not None:
            raise ValueError(
                f"{type(model).__name__} is compiled around block {path!r}, which hides it from visits: compile the "
                "blocks one by one instead, as block.compile()"
            )
