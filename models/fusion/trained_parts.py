"""Choose what of an expert is trained: nothing, LoRA adapters in its blocks, or all of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

TRAINED = ("bridges", "lora", "all")


def adapt(model: nn.Module, blocks: Sequence[str], trained: str, rank: int = 8) -> None:
    """Set which parameters of a tower require gradients, in place.

    Parameters
    ----------
    model : torch.nn.Module
        The tower's model.
    blocks : sequence of str
        The dotted paths of its blocks.
    trained : {"bridges", "lora", "all"}
        "bridges" trains none of the tower, "lora" low-rank adapters in every linear layer of the blocks, zero at first.
    rank : int
        The rank of the adapters.

    Raises
    ------
    ValueError
        Another word, or blocks without a linear layer.

    References
    ----------
    LoRA: Hu et al. 2021, arXiv 2106.09685.
    """
    if trained not in TRAINED:
        raise ValueError(f"cannot train {trained!r}: expected one of {', '.join(TRAINED)}")
    model.requires_grad_(trained == "all")
    if trained != "lora":
        return
    inside = tuple(f"{block}." for block in blocks)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)]
    if not linear:
        raise ValueError(f"the blocks of {type(model).__name__} have no linear layer: train 'bridges' or 'all'")
    # A list would take every layer whose path ends like these, also those of a vision tower that has the same names.
    pattern = "|".join(map(re.escape, linear))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern), model)
