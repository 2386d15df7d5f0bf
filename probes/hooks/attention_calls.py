"""Read and replace a block's attention while a model runs: its call of SDPA is intercepted, no forward is rewritten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..private_names import _len_torch_function_stack
from ..single_contexts import single_context
from .block_outputs import named_inputs
from .block_stacks import find_block


class AttentionCall(NamedTuple):
    """One call of `scaled_dot_product_attention` that is about to return.

    Attributes
    ----------
    query, key, value : Tensor
        (batch, head, token, dim). There may be fewer key heads than query heads (grouped-query attention).
    own : Tensor
        What the call itself returns, (batch, head, query token, dim).
    mask : Tensor or None
        Which keys each query sees, broadcastable to (batch, head, query token, key token): bool (True is seen) or added
        to the scores. A causal call's mask is written out. None: every query sees every key.
    scale : float or None
        The factor of the scores. None is dim ** -0.5.
    reads : Tensor or slice
        The query tokens (axis 2) that a bridge enters: those of one stream. By default all of them.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    own: Tensor
    mask: Tensor | None
    scale: float | None
    reads: Tensor | slice = slice(None)


Attention = Callable[..., Tensor]
AttentionVisit = Callable[[AttentionCall], Tensor | None]

SDPA = F.scaled_dot_product_attention  # the name in torch.nn.functional may stand for something else later


class Intercept(TorchFunctionMode):
    """Replace `scaled_dot_product_attention` while the mode is entered.

    Parameters
    ----------
    attend : callable
        It is called as `attend(original, query, key, value, ...)`, with the arguments of the call.
    """

    def __init__(self, attend: Attention) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is SDPA or func is F.scaled_dot_product_attention:
            return self.attend(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def intercept_calls(visit: AttentionVisit) -> Intercept:
    """Pass every call of `scaled_dot_product_attention` to a visit while the returned mode is entered.

    Parameters
    ----------
    visit : callable
        It takes an `AttentionCall` and returns what attention returns in place of `own`, or None for `own` itself.
    """

    def attend(original: Attention, *args: Any, **options: Any) -> Tensor:
        call = _attention_call(original(*args, **options), *args, **options)
        replacement = visit(call)
        return call.own if replacement is None else replacement

    return Intercept(attend)


class NamedIntercept:
    """Replace `scaled_dot_product_attention` by its name in `torch.nn.functional` while the context is entered.

    It costs a microsecond, where `Intercept` slows down every function of torch that runs meanwhile. But it sees only
    calls that look the function up by name, as nearly all models make them, and not those of a reference that a module
    took when it was imported. Each thread and each greenlet sees its own, as with modes.

    Parameters
    ----------
    attend : callable
        As of `Intercept`.

    See Also
    --------
    Intercept : Sees every call.
    """

    _lock = threading.Lock()
    _entered = 0
    _original: Attention
    _replacement: Attention

    def __init__(self, attend: Attention) -> None:
        self.attend = attend
        self.outer: NamedIntercept | None = None

    def __enter__(self) -> NamedIntercept:
        self.outer = _innermost.get()
        _innermost.set(self)
        with NamedIntercept._lock:
            NamedIntercept._entered += 1
            if NamedIntercept._entered == 1:
                NamedIntercept._original = original = F.scaled_dot_product_attention
                # A new one each time: whoever wraps it for longer would otherwise be called by what it wraps.
                NamedIntercept._replacement = replacement = lambda *args, **options: _attend_by_name(
                    _innermost.get(), original, *args, **options
                )
                F.scaled_dot_product_attention = replacement
        return self

    def __exit__(self, *_: object) -> None:
        _innermost.set(self.outer)
        with NamedIntercept._lock:
            NamedIntercept._entered -= 1
            if not NamedIntercept._entered and F.scaled_dot_product_attention is NamedIntercept._replacement:
                F.scaled_dot_product_attention = NamedIntercept._original


_innermost: ContextVar[NamedIntercept | None] = ContextVar("innermost", default=None)


def _attend_by_name(intercept: NamedIntercept | None, original: Attention, *args: Any, **options: Any) -> Tensor:
    """Pass a call to an intercept, and what that calls to the one around it, as function modes are nested."""
    if intercept is None:
        return original(*args, **options)
    _innermost.set(intercept.outer)
    try:
        return intercept.attend(partial(_attend_by_name, intercept.outer, original), *args, **options)
    finally:
        _innermost.set(intercept)


class BlockIntercept:
    """Pass the calls of `scaled_dot_product_attention` of one running block to a visit.

    Parameters
    ----------
    visit : callable
        As of `intercept_calls`.
    named : bool
        Whether the block is known to look the function up by name. `NamedIntercept` then sees its calls, unless
        somebody's function mode is on, which must be given the function itself.

    Attributes
    ----------
    mode : Intercept or None
        The function mode that sees the calls, where they are not seen by name.
    """

    def __init__(self, visit: AttentionVisit, named: bool = False) -> None:
        self._calls, self._calls_by_name = 0, 0
        attend = intercept_calls(visit).attend
        self.mode: Intercept | None = None
        if named and not _len_torch_function_stack():
            self._by_name = NamedIntercept(attend)
            return

        def count(original: Attention, *args: Any, **options: Any) -> Tensor:
            self._calls_by_name += 1
            return original(*args, **options)

        def count_and_attend(original: Attention, *args: Any, **options: Any) -> Tensor:
            self._calls += 1
            return attend(original, *args, **options)

        self._by_name, self.mode = NamedIntercept(count), Intercept(count_and_attend)

    @property
    def named(self) -> bool:
        """Whether all calls that a function mode has seen were made by name."""
        return self._calls > 0 and self._calls == self._calls_by_name

    def enter(self) -> None:
        """See the calls from now on."""
        self._by_name.__enter__()
        if self.mode is not None:
            self.mode.__enter__()

    def leave(self, mode: bool = True) -> None:
        """See no more calls; `mode` says whether a function mode is taken off as well."""
        if mode and self.mode is not None:
            self.mode.__exit__(None, None, None)
        self._by_name.__exit__()


@single_context
def intercepted(model: nn.Module, visits: Mapping[str, Callable[[dict[str, Any]], AttentionVisit]]) -> Iterator[None]:
    """Pass each named block's calls of attention to a visit while the context lasts.

    Nothing is left behind after an exception or an interruption, inside the block or outside it.

    Parameters
    ----------
    model : torch.nn.Module
        The model that holds the blocks.
    visits : mapping of str to callable
        For each block's dotted path, a function that takes the block's inputs by name and returns the visit of this run
        of the block.
    """
    handles, entered = [], []

    def enter(path: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            mode = intercept_calls(visits[path](named_inputs(module, args, kwargs)))
            mode.__enter__()
            entered.append(mode)

        return before

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    try:
        for path in visits:
            block = find_block(model, path)
            handles.append(block.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(block.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        while entered:
            entered.pop().__exit__(None, None, None)


def _attention_call(
    own: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    """Name the arguments of a call of SDPA, in the order of its signature."""
    mask = attn_mask
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    return AttentionCall(query, key, value, own, mask, scale)
