"""Read what enters a block, as one row for each token."""

from __future__ import annotations

from torch import Tensor, nn

from ..hooks.capturing import EMBEDDINGS, LayerNeverRan, capture
from ..hooks.model_memory import forgetting
from .input_changes import Inputs, unchanged

MOVED = 1e-6  # a change of less than this share of the largest value is rounding

States = dict[str | None, Tensor]  # by stream


def flatten_tokens(state: Tensor, axis: int) -> Tensor:
    """Flatten a hidden state to one row per token.

    Parameters
    ----------
    state : torch.Tensor
        A hidden state of any layout.
    axis : int
        Its dim axis.

    Returns
    -------
    torch.Tensor
        (position, dim), float32.
    """
    return state.movedim(axis, -1).flatten(0, -2).float()


def entering_streams(model: nn.Module, block: str, inputs: Inputs) -> States | None:
    """Return the hidden states that enter a block.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    block : str
        The path of the block.
    inputs : mapping
        The keyword arguments of the call.

    Returns
    -------
    dict of torch.Tensor or None
        By stream, under None where there is one; None alone where this call does not run the block.
    """
    try:
        with forgetting(model, whole=False), capture(model, [EMBEDDINGS, block]) as taps:
            model(**unchanged(inputs))
    except LayerNeverRan:
        return None
    state = taps[EMBEDDINGS]
    return state if isinstance(state, dict) else {None: state}
