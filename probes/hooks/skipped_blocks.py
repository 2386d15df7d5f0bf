"""Let blocks pass on what they are given, so that no token of theirs reads another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..single_contexts import single_context
from .block_outputs import named_inputs
from .block_stacks import find_block


@single_context
def skipping(model: nn.Module, blocks: Sequence[str]) -> Iterator[None]:
    """Give back, in place of each state that a block returns, the state that it was given, while the context lasts.

    A state is recognised by its shape. What has another shape than every input, such as the smaller map of a block that
    merges patches, stays as it is.

    Parameters
    ----------
    model : torch.nn.Module
        The model. All hooks are removed at the end, after an exception too.
    blocks : sequence of str
        Dotted paths of the blocks.
    """

    def after(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        given = [v for v in named_inputs(module, args, kwargs).values() if isinstance(v, Tensor) and v.ndim > 1]

        def entering(part: Any) -> Any:
            """Return the first input of a state's shape, each once: streams come back in the order of their shapes."""
            if not isinstance(part, Tensor) or not part.is_floating_point():
                return part
            index = next((n for n, value in enumerate(given) if value.shape == part.shape), None)
            return part if index is None else given.pop(index)

        if isinstance(output, tuple | list):
            return type(output)(map(entering, output)) if type(output) in (tuple, list) else output
        return entering(output)

    handles = []
    try:
        for path in blocks:
            # First of all hooks, so that the library's own, which collect hidden states, see what is passed on.
            handles.append(find_block(model, path).register_forward_hook(after, prepend=True, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
