"""Warn of inputs that are padded on the left where a model counts positions from the first column."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..single_contexts import single_context

# Families whose states shift under left padding that only a mask tells, by their `model_type`. With position_ids the
# first are right, the recurrent ones never.
ABSOLUTE = {
    "bert", "biogpt", "clip", "clip_text_model", "ctrl", "distilbert", "electra", "gpt2", "gpt_bigcode", "gpt_neo",
    "openai-gpt", "xglm",
}  # fmt: skip
RECURRENT = {"recurrent_gemma", "rwkv", "xlstm"}


@single_context
def warning_of_left_padding(model: nn.Module, name: str) -> Iterator[None]:
    """Warn, while the context lasts, where a model is given inputs whose padding shifts its states.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    name : str
        What the warning calls it.
    """
    if getattr(getattr(model, "config", None), "model_type", None) not in ABSOLUTE | RECURRENT:
        yield
        return

    def look(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        if reason := shifted_by_padding(model, inputs):
            warnings.warn(f"{name}: {reason}", stacklevel=2)

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def shifted_by_padding(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """Return why a model's states depend on how far its inputs are padded on the left.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : mapping
        The keyword arguments of a call.

    Returns
    -------
    str or None
        A sentence with the remedy; None where the inputs are not padded on the left, say their positions, or go to a
        family that counts positions from the mask.
    """
    mask, kind = inputs.get("attention_mask"), getattr(getattr(model, "config", None), "model_type", None)
    if kind not in ABSOLUTE | RECURRENT or not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    if kind in ABSOLUTE and inputs.get("position_ids") is not None:
        return None
    if not bool(((mask[:, 0] == 0) & (mask[:, -1] != 0)).any()):
        return None
    what = "counts positions from the first column" if kind in ABSOLUTE else "reads the padding into its state"
    remedy = ", or pass position_ids=(mask.cumsum(1) - 1).clamp(min=0)" if kind in ABSOLUTE else ""
    return f"inputs are padded on the left and {kind} {what}, so its states shift: pad on the right{remedy}"
