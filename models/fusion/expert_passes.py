"""Run one expert of a fused model by itself: on captions, on noise, and to find its tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...probes.arguments import checked
from ...probes.hooks.block_stacks import find_stacks
from ...probes.stimuli.stimulus_set import Stimulus
from ..towers.finding import find_tower
from ..towers.tower import Tower, refuse_meta

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
        The expert does not hold its text as (batch, token, dim), or there are no captions.
    TypeError
        The captions are no texts.
    """
    captions = checked("captions", captions, Sequence[str])
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


def check_experts_meet(understanding: Any, generation: Any) -> None:
    """Raise the error that says why two experts are no reader and generator of a fused model.

    Parameters
    ----------
    understanding, generation : Any
        The experts.

    Raises
    ------
    TypeError
        The first reads no text, or the second does not draw.
    ValueError
        The weights of one are on the meta device.
    """
    if not callable(getattr(generation, "predict", None)) or "text" not in getattr(understanding, "modalities", ()):
        raise TypeError(
            "expected an expert that reads text and one that draws (a DitExpert), in this order, "
            f"got {type(understanding).__name__} and {type(generation).__name__}"
        )
    for expert in (understanding, generation):
        if isinstance(model := getattr(expert, "model", None), nn.Module):
            refuse_meta(model)


def check_towers(towers: Sequence[Any], examples: Any) -> None:
    """Raise the error that says why two towers and a pass of each cannot be joined.

    Parameters
    ----------
    towers : sequence of Tower
        The understanding and the generation tower.
    examples : tuple of callable
        One forward pass of each model.

    Raises
    ------
    TypeError
        They are no towers, or no two functions.
    """
    for name, tower in zip(("understanding", "generation"), towers, strict=True):
        if not isinstance(tower, Tower):
            raise TypeError(f"the {name} tower is a {type(tower).__name__}: expected what find_tower returns")
    checked("examples", examples, tuple[Callable, Callable], remedy="one forward pass of each model")
