"""Make context managers of generators, as contextlib does, which say in one sentence that they were entered before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def single_context(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """Return a function whose result is a context that is entered once.

    Parameters
    ----------
    function : callable
        A generator function that yields once, as `contextlib.contextmanager` takes it.

    Returns
    -------
    callable
        Takes the same arguments. What it returns raises RuntimeError where it is entered a second time.

    Examples
    --------
    >>> @single_context
    ... def counted():
    ...     yield 1
    >>> with counted() as number:
    ...     print(number)
    1
    """
    make = contextmanager(function)

    # A class in here, since frames within a function count as those of a decorator (tracebacks.py).
    class Single(AbstractContextManager[Any]):
        def __init__(self, *args: P.args, **kwargs: P.kwargs) -> None:
            self.context: Any = make(*args, **kwargs)
            self.entered = False

        def __enter__(self) -> Any:
            if self.entered:
                name = function.__name__
                raise RuntimeError(f"this {name} was entered before: call {name} again, once for each with statement")
            self.entered = True
            return next(self.context.gen)  # as deep in frames as contextlib's own, which `capture` counts

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
        ) -> bool | None:
            return self.context.__exit__(kind, error, frames)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return Single(*args, **kwargs)

    return call
