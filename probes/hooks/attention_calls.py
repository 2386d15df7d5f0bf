"""Stand in for attention while a block runs: no forward is rewritten, its call of SDPA is intercepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .block_outputs import named_inputs
from .block_stacks import find_block

Attention = Callable[..., Tensor]


class Intercept(TorchFunctionMode):
    """Replaces `scaled_dot_product_attention` by `attend(original, query, key, value, ...)` while it is entered."""

    def __init__(self, attend: Attention) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.attend(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def intercepted(model: nn.Module, attends: dict[str, Callable[[dict[str, Any]], Attention]]) -> Iterator[None]:
    """While the context lasts, each named block's attention goes through `attends[path](the block's inputs)`.

    Nothing is left behind after an exception or an interruption, in the block or out of it.
    """
    handles, entered = [], []

    def enter(path: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            mode = Intercept(attends[path](named_inputs(module, args, kwargs)))
            mode.__enter__()
            entered.append(mode)

        return before

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    try:
        for path in attends:
            block = find_block(model, path)
            handles.append(block.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(block.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        while entered:
            entered.pop().__exit__(None, None, None)
