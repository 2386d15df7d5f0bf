"""Run compiled modules as they were before, and refuse bridges in models that are compiled around their blocks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn

from ..private_names import COMPILED, COMPILED_CALL, children_of
from .block_stacks import find_block
from .hook_order import register_before_readers


class CompiledCall:
    """A block that was compiled in place, with hooks behind it that it would not see.

    Attributes
    ----------
    compiled : callable
        The block as it was compiled.
    hooks : list of callable
        Forward hooks (module, args, output) in the order in which they run.
    """

    def __init__(self, compiled: Callable[..., Any]) -> None:
        self.compiled = compiled
        self.hooks: list[Callable[..., Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.compiled(*args, **kwargs)
        for hook in self.hooks:
            changed = hook(None, args, output)
            output = output if changed is None else changed
        return output


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
    """Let a module run as it did before it was compiled, until the stack is left. Hooks behind it stay."""
    compiled = module.__dict__.get(COMPILED_CALL)
    if compiled is not None:
        put(stack, module, COMPILED_CALL, None)
    for hook in compiled.hooks if isinstance(compiled, CompiledCall) else ():
        stack.callback(register_before_readers(module, hook).remove)
    if (original := children_of(module).get(COMPILED)) is not None:
        put(stack, module, "forward", original.__call__)


def uncompile_all(stack: ExitStack, block: nn.Module) -> None:
    """Let a block and all modules in it run as before they were compiled, until the stack is left."""
    modules = [block]
    while modules:  # `block.modules()` takes several times as long, in every pass
        module = modules.pop()
        if module.__dict__.get(COMPILED_CALL) is not None or COMPILED in children_of(module):
            uncompile(stack, module)
        modules += [child for child in children_of(module).values() if child is not None]


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
        whole = COMPILED in children_of(parent) and parent is not find_block(model, path)
        if whole or getattr(parent, COMPILED_CALL, None) is not None:
            raise ValueError(
                f"{type(getattr(model, COMPILED, model)).__name__} is compiled around block {path!r}, which hides it "
                "from bridges: compile the blocks one by one instead, as block.compile()"
            )
