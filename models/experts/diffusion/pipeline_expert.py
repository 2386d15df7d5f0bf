"""A diffusers pipeline as a subject: its own code prepares what its denoiser is probed on."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ....probes.hooks.block_stacks import find_stacks
from ....probes.hooks.capturing import EMBEDDINGS, capture
from ....probes.stimuli.stimulus_set import Stimulus
from ....probes.subjects.subject import ForwardPass
from ..language import TextExpert
from .latents import latent_stride, moment, noisy_latents
from .prompt_words import word_mask
from .recorded_call import Call, Draw, frozen_scheduler, record_call


@dataclass
class PipelineExpert:
    """A diffusers pipeline; `model` is its denoiser, a transformer or a U-Net.

    The denoiser is given what the pipeline itself would give it for one prompt, one timestep and these latents, without
    classifier-free guidance (models/experts/diffusion/recorded_call.py). Image alone is the noisy image with the empty prompt, and its pooled
    vector where there is one; text alone is the prompt with pure noise at t = 1. Text tokens are the prompt's own
    (models/experts/diffusion/prompt_words.py).

    Blocks with an image and a text stream, and blocks over one sequence of both, have both modalities. Where text
    enters by cross-attention alone (U-Nets, PixArt, Sana, HunyuanDiT, Wan, LTX) no block has a text state: `modalities`
    is ("image",), and what stands in for text is the pipeline's text encoder, `text_expert()`, a subject of its own.

    Attributes:
        layout: "streams" (both in every block), "sequence" (text, then image, each sample's own length), "joined" (all
            of the text stream, then the image's), "image", or "maps" (batch, dim, row, column) of a U-Net.
        side: pixels a side that images are resized to, stretched; None is the pipeline's own size.
    """

    name: str
    pipe: Any
    model: Any
    blocks: tuple[str, ...]
    layout: str
    side: int | None = None
    single: tuple[str, ...] = ()  # blocks that return both streams as one
    registers: int = 0  # learnt tokens that stand before the text in its stream
    tasks: tuple[str, ...] = ("generation",)
    timed_tasks: tuple[str, ...] = ("generation",)
    _stride: int | None = field(default=None, repr=False)  # pixels a latent, measured when the first image is shown
    empty: Call | None = field(default=None, repr=False)  # of the empty prompt, made when the first prompt is shown

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image",) if self.layout in ("image", "maps") else ("image", "text")

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        call = self.call(stimuli, modalities, timestep)
        given = call.arguments
        if len(latents := next(iter(given.values()))) != len(stimuli):
            raise RuntimeError(f"{self.name}: {len(stimuli)} prompts became a batch of {len(latents)}: guidance is on")
        words = self._words(call) if "text" in modalities else None
        tokens: dict[str, Tensor | None] = {"image": None, "text": words}
        if self.layout == "sequence":
            tokens = self._places(given, words)
        elif self.layout == "joined":
            tokens = self._joined(given, words)
        streams = {m: m for m in modalities if self.layout == "streams"}
        return ForwardPass(
            lambda: self.model(**given),
            {m: tokens[m] for m in modalities},
            streams,
            dim_axis=1 if self.layout == "maps" else -1,
        )

    def call(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], timestep: float | None, **chosen: Any
    ) -> Call:
        """What the denoiser is given for one pass that shows these modalities, recorded from the pipeline."""
        shown = "image" in modalities
        time = 1.0 if timestep is None or not shown else timestep
        now = moment(self.pipe.scheduler, time)
        prompts = [s.text if "text" in modalities else "" for s in stimuli]
        if shown and self._stride is None:
            gather_on_device(self.pipe, self.model)
            self._stride = latent_stride(self.pipe)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return noisy_latents(self.pipe, stimuli, shown, now, shape, self._stride or 0)

        return self.record(prompts, time, draw, **chosen)

    def record(self, prompts: Sequence[str], time: float, draw: Draw, **chosen: Any) -> Call:
        """The denoiser's call for these prompts at `time`, on the latents that `draw(shape)` gives, unpacked."""
        device = gather_on_device(self.pipe, self.model)
        now = moment(self.pipe.scheduler, time)
        still = frozen_scheduler(self.pipe.scheduler, now.timestep, time, device)
        return record_call(self.pipe, self.model, prompts, draw, still, **self._size(), **chosen)

    def single_stream(self) -> PipelineExpert:
        """The blocks that follow those with two streams and return both as one (Flux 2): a subject of their own."""
        if not self.single:
            raise ValueError(
                f"{self.name} has no further blocks: those of {self.blocks[0]!r} to {self.blocks[-1]!r} are all"
            )
        return replace(self, name=f"{self.name} single-stream", blocks=self.single, layout="joined", single=())

    def text_expert(self) -> TextExpert:
        """The pipeline's text encoder, the first where it has several."""
        encoder = getattr(self.pipe, "text_encoder", None)
        if encoder is None:
            raise ValueError(f"{self.name} has no text encoder")
        blocks = tuple(max(find_stacks(encoder).values(), key=len))
        return TextExpert(f"{self.name} text encoder", encoder, self.pipe.tokenizer, blocks)

    def _words(self, call: Call) -> Tensor:
        if self.empty is None:
            self.empty = self.call([_blank("")], ("text",), None)
        words = word_mask(call.read, self.empty.read, call.arguments["encoder_hidden_states"].shape[1])
        return nn.functional.pad(words, (self.registers, 0))

    def _joined(self, given: dict[str, Any], words: Tensor | None) -> dict[str, Tensor | None]:
        """Masks (batch, token) of states that hold all text tokens, then all of the image's packed latents."""
        text, latents = self.registers + given["encoder_hidden_states"].shape[1], next(iter(given.values()))
        image = latents.shape[1] if latents.dim() == 3 else self._patches(latents)
        every = torch.arange(text + image).expand(len(given["encoder_hidden_states"]), -1)
        padded = None if words is None else nn.functional.pad(words, (0, image))
        return {"image": every >= text, "text": padded}

    def _places(self, given: dict[str, Any], words: Tensor | None) -> dict[str, Tensor | None]:
        """Positions in the flattened (batch, token) states: each sample's text, then its image, then padding."""
        text = given["encoder_attention_mask"].sum(1).cpu()
        image = self._patches(next(iter(given.values())))
        width = int(text.max()) + image
        first = torch.arange(len(text))[:, None] * width
        places: dict[str, Tensor | None] = {"image": first + text[:, None] + torch.arange(image)}
        if words is not None:
            at = torch.where(words, torch.arange(words.shape[1]), width).sort(1).values[:, : int(words.sum(1).max())]
            places["text"] = torch.where(at < width, first + at, -1)
        return places

    def _patches(self, latents: Tensor) -> int:
        rows, columns = (side // self.model.config.patch_size for side in latents.shape[-2:])
        return rows * columns

    def _size(self) -> dict[str, int]:
        offered = inspect.signature(self.pipe.__call__).parameters
        side = self.side or (offered["height"].default if "height" in offered else None)
        return {"height": side, "width": side} if side else {}


def denoiser_expert(name: str, pipe: Any, model: Any, side: int | None) -> PipelineExpert:
    """A pipeline's denoiser as a subject; what its blocks hold is seen by running it twice, on pure noise."""
    # Refiners prepare one modality before the blocks that this is about (Lumina, HunyuanVideo).
    stacks = {path: blocks for path, blocks in find_stacks(model).items() if "." not in path and "refiner" not in path}
    expert = PipelineExpert(name, pipe, model, tuple(b for blocks in stacks.values() for b in blocks), "image", side)
    first = [blocks[0] for blocks in stacks.values()]
    calls = [expert.call([_blank(text)], ("text",), None) for text in ("", "some words")]
    seen = [_look(model, first, call) for call in calls]
    if isinstance(seen[0][first[0]], dict):
        dual, single = (
            tuple(b for blocks in stacks.values() if isinstance(seen[0][blocks[0]], dict) is wanted for b in blocks)
            for wanted in (True, False)
        )
        expert.layout, expert.blocks, expert.single = "streams", dual, single
        given = calls[0].arguments["encoder_hidden_states"].shape[1]
        expert.registers = seen[0][EMBEDDINGS]["text"].shape[1] - given  # AuraFlow
    elif seen[0][first[0]].dim() == 4:
        expert.layout = "maps"
    elif not _same(*(_one(look[EMBEDDINGS]) for look in seen)):  # the prompt is in the very sequence
        expert.layout = "sequence"
        if "encoder_attention_mask" not in calls[0].arguments:
            raise ValueError(
                f"{type(model).__name__} puts text and image into one sequence whose order is not known here: wrap it "
                "in your own Subject (probes/subjects/subject.py)"
            )
    return expert


def _look(model: nn.Module, blocks: list[str], call: Call) -> dict[str, Any]:
    with torch.inference_mode(), capture(model, [EMBEDDINGS, *blocks]) as taps:
        model(**call.arguments)
    return taps


def _one(state: Any) -> Tensor:
    return state["image"] if isinstance(state, dict) else state


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _blank(text: str) -> Stimulus:
    return Stimulus(Image.new("RGB", (1, 1)), text, "blank")


def gather_on_device(pipe: Any, denoiser: Any) -> torch.device:
    """Bring all parts to where the denoiser is, since whoever moves that one need not know of them; where that is."""
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    offloaded = getattr(pipe, "hf_device_map", None) or any(hasattr(part, "_hf_hook") for part in parts)
    if not offloaded and any(part.device != denoiser.device for part in parts):
        pipe.to(denoiser.device)
    return pipe._execution_device
