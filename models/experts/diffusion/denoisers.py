"""Find what a pipeline's denoiser holds: its blocks, its streams, and the convention that it was trained with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....probes.hooks.block_stacks import find_stacks
from ....probes.hooks.capturing import EMBEDDINGS, capture
from .conventions import begin_loop, difference, measure_convention
from .oracle_loop import Moment
from .pipeline_expert import PipelineExpert, blank, gather_on_device


def denoiser_expert(name: str, pipe: Any, model: Any, side: int | None) -> PipelineExpert:
    """Wrap a pipeline's denoiser as a subject; what its blocks hold is measured by running it twice, on pure noise.

    Parameters
    ----------
    name : str
        What the expert is called.
    pipe : diffusers.DiffusionPipeline
        The pipeline.
    model : torch.nn.Module
        Its denoiser.
    side : int or None
        Pixels a side of the images; None is the pipeline's own size.

    Returns
    -------
    PipelineExpert

    Raises
    ------
    ValueError
        If text and image stand in one sequence whose order is not known.
    """
    if getattr(pipe, "vae", None) is None:
        raise ValueError(
            f"{type(pipe).__name__} has no autoencoder of images called vae: what it would show of an image is not "
            "known here. Wrap it in your own Subject (probes/subjects/subject.py)"
        )
    # Refiners and text blocks prepare one modality before the blocks that are probed (Lumina, Kandinsky 5).
    stacks = {
        path: blocks
        for path, blocks in find_stacks(model).items()
        if "." not in path and "refiner" not in path and "text" not in path
    }
    expert = PipelineExpert(name, pipe, model, tuple(b for blocks in stacks.values() for b in blocks), "image", side)
    first = [blocks[0] for blocks in stacks.values()]
    learn_convention(expert)
    bare, words = (expert.call([blank(text)], ("text",), None).arguments for text in ("", "some words"))
    states = [_capture(model, first, arguments) for arguments in (bare, words)]
    if isinstance(states[0][first[0]], dict):
        dual, single = (
            tuple(b for blocks in stacks.values() if isinstance(states[0][blocks[0]], dict) is wanted for b in blocks)
            for wanted in (True, False)
        )
        expert.layout, expert.blocks, expert.single = "streams", dual, single
        if not isinstance(bare.get("encoder_hidden_states"), Tensor):
            raise ValueError(
                f"{type(model).__name__} is not given its text as one tensor encoder_hidden_states, but among "
                f"{', '.join(bare)}: which of its tokens are the caption's words is not known here. Wrap it in your "
                "own Subject (probes/subjects/subject.py)"
            )
        given = bare["encoder_hidden_states"].shape[1]
        expert.registers = states[0][EMBEDDINGS]["text"].shape[1] - given  # AuraFlow
    elif states[0][first[0]].dim() == 4:
        expert.layout = "maps"
    elif not _same(*(_image_state(taps[EMBEDDINGS]) for taps in states)):  # the prompt is in the sequence itself
        expert.layout = "sequence"
        if not _text_comes_first(expert, first[0], bare):
            raise ValueError(
                f"{type(model).__name__} puts text and image into one sequence whose order is not known here: wrap it "
                "in your own Subject (probes/subjects/subject.py)"
            )
    return expert


def learn_convention(expert: PipelineExpert) -> tuple[list[Moment], Tensor]:
    """Measure an expert's convention in its pipeline's own loop, and set it.

    Parameters
    ----------
    expert : PipelineExpert
        Its `convention` and `latents` are set.

    Returns
    -------
    moments : list of Moment
        Calls of the denoiser in the pipeline's own loop.
    drawn : Tensor
        What the pipeline received as its initial latents in it.

    Raises
    ------
    ValueError
        If the schedule is not known, or the denoiser would be given something else here than in the pipeline's loop.
    """
    pipe, model, size = expert.pipe, expert.model, expert.size()
    gather_on_device(pipe, model)
    first, expert.latents = begin_loop(pipe, model, **size)
    with torch.inference_mode():
        output = model(**first.arguments)
    expert.convention, moments, drawn = measure_convention(pipe, model, first, expert.latents, output, **size)
    _check_convention(expert, moments, drawn)
    return moments, drawn


def _check_convention(expert: PipelineExpert, moments: list[Moment], drawn: Tensor) -> None:
    """Refuse a pipeline whose own loop gives its denoiser something else than `record` does, at the same noise."""
    whole = [m for m in moments[1:] if expert.convention.flow or float(m.timestep).is_integer()]
    if not whole:
        return
    moment = min(whole, key=lambda m: (m.fresh, abs(m.noise - 0.5)))
    exact = expert.model.dtype == torch.float32
    for name, apart in loop_differences(expert, moment, drawn).items():
        latents = expert.latents is not None and name == expert.latents.name
        if apart > ((1e-3 if latents else 1e-5) if exact else 4e-2):  # a sampler's steps have their own errors
            raise ValueError(
                f"{expert.name}: at time {expert.convention.time(moment):.2f} and the same noise, the loop of "
                f"{type(expert.pipe).__name__} gives its denoiser another {name} than would be given here: wrap it in "
                "your own Subject (probes/subjects/subject.py)"
            )


def loop_differences(expert: PipelineExpert, moment: Moment, drawn: Tensor) -> dict[str, float]:
    """Compare what a pipeline's own loop gives its denoiser with what `record` gives it, at the same noise.

    Parameters
    ----------
    expert : PipelineExpert
        Whose convention is known.
    moment : Moment
        Of the loop (`measure_convention`).
    drawn : Tensor
        What the pipeline received as its initial latents in this loop.

    Returns
    -------
    dict of str to float
        For each argument the largest difference over the largest value. The latents are left out where the sampler had
        drawn noise of its own.
    """
    time = expert.convention.time(moment)
    level = expert.convention.level(time)
    noisy = level.signal + level.noise * (drawn - drawn.mean()) / drawn.std(correction=0)
    ours = expert.record([""], time, lambda shape: noisy).arguments
    own = expert.latents.name if moment.fresh and expert.latents else None
    return {
        name: difference(theirs, ours.get(name)) if name in ours else float("inf")
        for name, theirs in moment.arguments.items()
        if name != own
    }


def _capture(model: nn.Module, blocks: list[str], arguments: dict[str, Any]) -> dict[str, Any]:
    with torch.inference_mode(), capture(model, [EMBEDDINGS, *blocks]) as taps:
        model(**arguments)
    return taps


def _text_comes_first(expert: PipelineExpert, first: str, given: dict[str, Any]) -> bool:
    """Return whether a sequence holds a prompt's tokens, then the latents: those that change with the latents."""
    name = expert.latents.name if expert.latents else ""
    patch, mask = getattr(expert.model.config, "patch_size", None), given.get("encoder_attention_mask")
    if not isinstance(given.get(name), Tensor) or given[name].dim() != 4 or not patch or mask is None:
        return False
    rows, columns = (side // patch for side in given[name].shape[-2:])
    one, other = (
        _capture(expert.model, [first], given | {name: factor * given[name]})[EMBEDDINGS][0] for factor in (1.0, 0.5)
    )
    changed = (one != other).any(-1).nonzero()[:, 0].tolist()
    text = int(mask[0].sum())
    return changed == list(range(text, text + rows * columns))


def _image_state(state: Any) -> Tensor:
    return state["image"] if isinstance(state, dict) else state


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
