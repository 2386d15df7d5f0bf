"""Run a diffusers pipeline as its users do, with answers given in the place of its denoiser."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ....probes.private_names import FORWARD_HOOKS, FORWARD_PRE_HOOKS, GUIDANCE
from ....probes.single_contexts import single_context
from .prompt_words import EncoderCall, mapped

Draw = Callable[[tuple[int, ...]], Tensor]
_REWRITES = re.compile(r"rewrit|enhanc|upsampl|expan")


class Recorded(Exception):
    """Raised by an answer to end a pipeline's run: nothing behind it is needed."""


def run_pipeline(
    pipe: Any,
    denoiser: Any,
    prompts: Sequence[str],
    noise: Noise,
    scheduler: Any,
    answer: Callable[[dict[str, Any]], Any],
    steps: int = 2,
    encoders: Mapping[str, Callable[..., Any]] | None = None,
    **chosen: Any,
) -> None:
    """Run a pipeline for still images without classifier-free guidance, until an answer raises `Recorded`.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed.
    denoiser : torch.nn.Module
        The pipeline's; a copy that does not compute takes its place.
    prompts : sequence of str
        One for each sample.
    noise : Noise
        What the pipeline receives where it draws Gaussian latents.
    scheduler : diffusers.SchedulerMixin
        Takes the place of the pipeline's own.
    answer : callable
        `answer(arguments)` takes the denoiser's arguments, by name, and returns its output.
    steps : int
        How many the pipeline is asked for.
    encoders : mapping, optional
        By the pipeline's names of its text encoders, what takes the place of their `forward`.
    **chosen : Any
        More of the pipeline's own arguments.

    Raises
    ------
    RuntimeError
        If a language model would write a prompt anew.

    Notes
    -----
    Switches of the pipeline by which a language model writes the prompt anew are off: the caption is what is shown.
    """
    offered = inspect.signature(pipe.__call__).parameters
    options: dict[str, Any] = {
        "prompt": list(prompts), "num_inference_steps": steps, "output_type": "latent", "use_resolution_binning": False,
        "num_frames": 1, "video_length": 1, "frames": 1,
    }  # fmt: skip
    options |= {name: False for name, option in offered.items() if option.default is True and _REWRITES.search(name)}
    guidance = "true_cfg_scale" if "true_cfg_scale" in offered else "guidance_scale"
    if guidance == "true_cfg_scale" or not denoiser.config.get("guidance_embeds"):
        options[guidance] = _no_guidance(pipe)  # elsewhere it is an input of the denoiser, which was trained on it
    options |= chosen
    runner = copy.copy(pipe)
    runner.scheduler = scheduler
    runner.set_progress_bar_config(disable=True)
    signature = inspect.signature(denoiser.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return answer(signature.bind(*args, **kwargs).arguments)

    for name, part in pipe.components.items():
        if part is denoiser:
            runner.__dict__[name] = _stand_in(part, "forward", forward)
        elif encoders and name in encoders:
            runner.__dict__[name] = _stand_in(part, "forward", encoders[name])
        elif isinstance(part, nn.Module) and hasattr(part, "generate"):
            runner.__dict__[name] = _stand_in(part, "generate", _refuse_rewriting(type(pipe).__name__, name))
    try:
        with noise, quiet_about_cuts():
            runner(**{name: value for name, value in options.items() if name in offered})
    except Recorded:
        pass


@single_context
def quiet_about_cuts() -> Iterator[None]:
    """Keep diffusers from saying in every batch which words are cut off: `extract` says it once, with the stimuli."""
    handlers = list(logging.getLogger("diffusers").handlers)

    def is_other(record: logging.LogRecord) -> bool:
        return "input was truncated because" not in record.getMessage()

    for handler in handlers:
        handler.addFilter(is_other)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_other)


@single_context
def encoders_read(pipe: Any) -> Iterator[list[EncoderCall]]:
    """Collect what a pipeline's text encoders read.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed but for hooks, which are taken off.

    Yields
    ------
    list of EncoderCall
        Filled while the pipeline runs, in order.
    """
    read: list[EncoderCall] = []

    def collect(encoder: str) -> Callable[..., None]:
        def encode(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if isinstance(ids, Tensor):
                shapes = mapped(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, output)
                read.append(EncoderCall(encoder, ids, kwargs.get("attention_mask"), shapes))

        return encode

    parts = text_encoders(pipe)
    handles = [part.register_forward_hook(collect(name), with_kwargs=True) for name, part in parts.items()]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def text_encoders(pipe: Any) -> dict[str, nn.Module]:
    """Return a pipeline's text encoders by the names that it has for them.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Any.

    Returns
    -------
    dict of str to torch.nn.Module
    """
    return {
        name: part
        for name, part in pipe.components.items()
        if name.startswith("text_encoder") and isinstance(part, nn.Module)
    }


class Noise(TorchFunctionMode):
    """Return `draw(shape)` where a pipeline draws Gaussian latents: the one `torch.randn` of four or more axes.

    Parameters
    ----------
    draw : callable
        `draw(shape)` returns the initial latents, not yet packed.

    Attributes
    ----------
    drawn : int
        How often initial latents were drawn.
    again : callable or None
        What a sampler receives that draws noise between steps, from when it is set.
    """

    def __init__(self, draw: Draw):
        self.draw, self.drawn = draw, 0
        self.again: Draw | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.again is not None and func is torch.randn_like:
            return self.again(tuple(args[0].shape)).to(args[0])
        shape = tuple(args[0]) if func is torch.randn and args and isinstance(args[0], tuple | list) else args
        if func is not torch.randn or len(shape) < (4 if self.again is None else 3):
            return func(*args, **kwargs)
        self.drawn += self.again is None
        noise = self.draw(shape) if self.again is None else self.again(shape)
        return noise.to(device=kwargs.get("device"), dtype=kwargs.get("dtype"))


def _stand_in(part: nn.Module, method: str, other: Callable[..., Any]) -> nn.Module:
    """Copy a module, weights shared, with another method: the module itself is not touched."""
    copied = copy.copy(part)
    copied.__dict__[method] = other
    if method == "forward":  # hooks that somebody has set are for what the module computes
        hooks = [name for name in copied.__dict__ if name.startswith((FORWARD_HOOKS, FORWARD_PRE_HOOKS))]
        copied.__dict__ |= {name: OrderedDict() for name in hooks}
    return copied


def _no_guidance(pipe: Any) -> float:
    """Return the scale at which a pipeline does not guide: 1 for most, 0 for some (Z-Image, Krea 2)."""
    asked = copy.copy(pipe)
    asked.__dict__[GUIDANCE] = 1.0
    return 0.0 if getattr(asked, "do_classifier_free_guidance", False) is True else 1.0


def _refuse_rewriting(kind: str, name: str) -> Callable[..., Any]:
    def generate(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"{kind}: its {name} writes something new before the denoiser is called, and the denoiser is shown that "
            "in place of the caption. Switch this off in the pipeline, or wrap it in your own Subject "
            "(probes/subjects/subject.py)"
        )

    return generate
