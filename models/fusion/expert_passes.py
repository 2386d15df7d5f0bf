"""Run one expert of a fused model by itself: on captions, on noise, and to find its tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...probes.hooks.block_stacks import find_stacks
from ...probes.stimuli.stimulus_set import Stimulus
from ..towers.finding import find_tower
from ..towers.tower import Tower

_BLANK = Image.new("RGB", (2, 2))


def text_pass(expert: Any, captions: Sequence[str]) -> tuple[Callable[[], Any], Tensor]:
    """Prepare the understanding expert's forward pass over captions alone.

    Parameters
    ----------
    expert : Any
        An expert that reads text.
    captions : sequence of str
        The captions of one batch.

    Returns
    -------
    run : callable
        It runs the pass and returns what the model returns.
    mask : Tensor
        (batch, token), False at padding.

    Raises
    ------
    ValueError
        The expert does not hold its text as (batch, token, dim).
    """
    shown = expert.show([Stimulus(_BLANK, text, text) for text in captions], ("text",), "understanding", None)
    text, special = shown.tokens["text"], shown.special.get("text")
    if text is None or text.dtype != torch.bool:
        raise ValueError(f"{expert.name} does not hold its text as (batch, token, dim): it cannot be read by bridges")
    return shown.run, text if special is None else text | special


def example_pass(expert: Any) -> Callable[[], Any]:
    """Return a pass over two captions, and check that the null caption can be shown as well.

    Parameters
    ----------
    expert : Any
        An expert that reads text.

    Returns
    -------
    callable
        It runs the pass.

    Raises
    ------
    ValueError
        As `text_pass`; or a model of the user's own makes no token of the null caption.
    """
    if hasattr(expert, "inputs"):  # our own experts put a token in front
        try:
            text_pass(expert, [""])
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{expert.name} cannot be shown the null caption, which guidance needs ({reason}): let its inputs put "
                "a begin token in front of every text"
            ) from None
    return text_pass(expert, ["a", "a"])[0]


def noise_pass(expert: Any) -> Callable[[], Tensor]:
    """Return a function that runs the generation expert on two blank samples at time 1, without text or gradients."""

    def run() -> Tensor:
        with torch.no_grad():
            noisy = torch.zeros(2, *expert.size, device=expert.model.device)
            return expert.predict(noisy, expert.encode(["", ""]), noisy.new_ones(2))

    return run


def expert_tower(expert: Any, run: Callable[[], Any], stream: str | None) -> Tower:
    """Find the expert's blocks as a tower.

    Parameters
    ----------
    expert : Any
        The expert.
    run : callable
        One forward pass of two samples.
    stream : {"image", "text", "both"} or None
        The tokens that bridges enter, as `find_tower` takes them.

    Returns
    -------
    Tower
        The tower of the stack that the expert's blocks are.

    Raises
    ------
    ValueError
        The expert's blocks are no whole stack of its model, or the stack has no such stream.
    """
    stacks = find_stacks(expert.model)
    whole = [path for path, blocks in stacks.items() if tuple(blocks) == tuple(expert.blocks)]
    if not whole:
        raise ValueError(
            f"the {len(expert.blocks)} blocks of {expert.name} are no whole stack of its model, which has "
            f"{', '.join(stacks)}: give the expert one of these as its blocks"
        )
    return find_tower(expert.model, run, stack=whole[0], stream=stream)
