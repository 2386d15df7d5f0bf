"""Probe a diffusers pipeline as a subject: its own code prepares what its denoiser is given."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ....probes.hooks.block_stacks import find_stacks
from ....probes.notebook_views import SubjectView
from ....probes.private_names import ACCELERATE_HOOK, execution_device
from ....probes.stimuli.stimulus_set import Stimulus
from ....probes.subjects.input_changes import Rows
from ....probes.subjects.picture_grids import Place, find_grids
from ....probes.subjects.subject import ForwardPass
from ..language import TextExpert
from .conventions import Convention
from .cut_prompts import cut_prompts
from .latents import measure_latents, noisy_latents
from .oracle_loop import Latents, flat
from .pipeline_runs import Draw, text_encoders
from .prompt_words import PROBES, EncoderCall, word_table
from .recorded_call import Call, frozen_scheduler, record_call, trace_words


@dataclass
class PipelineExpert(SubjectView):
    """A diffusers pipeline; `model` is its denoiser, a transformer or a U-Net.

    The denoiser is given what the pipeline itself would give it for one prompt, one timestep and these latents, without
    classifier-free guidance (models/experts/diffusion/recorded_call.py). Image alone is the noisy image with the empty
    prompt, and its pooled vector where there is one; text alone is the prompt with pure noise at t = 1. Text tokens are
    the prompt's own (models/experts/diffusion/prompt_words.py).

    Blocks with an image and a text stream, and blocks over one sequence of both, have both modalities. Where text
    enters by cross-attention alone (U-Nets, PixArt, Sana, HunyuanDiT, Wan, LTX) no block has a text state: `modalities`
    is ("image",), and what stands in for text is the pipeline's text encoder, `text_expert()`, another subject.

    Attributes
    ----------
    name : str
        What the expert is called.
    pipe : diffusers.DiffusionPipeline
        On whatever devices and in whatever precision it is.
    model : torch.nn.Module
        The denoiser.
    blocks : tuple of str
        Paths of the denoiser's blocks in depth order.
    layout : str
        "streams" (both in every block), "sequence" (text, then image, each sample's own length), "joined" (all of the
        text stream, then the image's), "image", or "maps" (batch, dim, row, column) of a U-Net.
    side : int or None
        Pixels a side that images are resized to, stretched; None is the pipeline's own size.
    single : tuple of str
        Blocks that return both streams as one.
    registers : int
        Learnt tokens that stand before the text in its stream.
    tasks, timed_tasks : tuple of str
        What can be probed, as every `Subject` says.
    others : list or None
        What the text encoders read of two other prompts, recorded when the first prompt is shown.
    convention : Convention
        How the pipeline counts time, and what its denoiser returns; measured when it is opened.
    latents : Latents or None
        Which of the denoiser's arguments holds the latents; found when it is opened.
    """

    name: str
    pipe: Any
    model: Any
    blocks: tuple[str, ...]
    layout: str
    side: int | None = None
    single: tuple[str, ...] = ()
    registers: int = 0
    tasks: tuple[str, ...] = ("generation",)
    timed_tasks: tuple[str, ...] = ("generation",)
    _stride: int | None = field(default=None, repr=False)  # pixels a latent, measured when the first image is shown
    others: Any = field(default=None, repr=False)
    convention: Convention = field(default=Convention("noise - image"), repr=False)
    latents: Latents | None = field(default=None, repr=False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the blocks have states of."""
        return ("image",) if self.layout in ("image", "maps") else ("image", "text")

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows these modalities of the stimuli.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            What is shown.
        modalities : tuple of str
            "image", "text" or both.
        task
            Not used: there is one.
        timestep : float or None
            0 is the clean image, 1 is noise; None is noise.

        Returns
        -------
        ForwardPass

        Raises
        ------
        RuntimeError
            If the pipeline guides, or cannot be recorded.
        """
        call = self.call(stimuli, modalities, timestep)
        given = call.arguments
        if len(latents := next(iter(given.values()))) != len(stimuli):
            raise RuntimeError(f"{self.name}: {len(stimuli)} prompts became a batch of {len(latents)}: guidance is on")
        words = self._words(call, [s.text for s in stimuli]) if "text" in modalities else None
        tokens: dict[str, Tensor | None] = {"image": None, "text": words}
        if self.layout == "sequence":
            tokens = self._places(given, words)
        elif self.layout == "joined":
            tokens = self._joined(given, words)
        cut, limit = self._cut(call, stimuli) if "text" in modalities else ((), None)
        streams = {m: m for m in modalities if self.layout == "streams"}
        place = Place(self.model, self.blocks[0], streams.get("image"), positions=tokens["image"])
        rows = Rows(0, torch.ones(len(stimuli), dtype=torch.int64))
        return ForwardPass(
            lambda: self.model(**given),
            {m: tokens[m] for m in modalities},
            streams,
            dim_axis=1 if self.layout == "maps" else -1,
            grids={} if self.layout == "maps" else {"image": lambda: find_grids(place, given, next(iter(given)), rows)},
            cut=cut,
            limit=limit,
        )

    def call(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], timestep: float | None, **chosen: Any
    ) -> Call:
        """Record what the pipeline gives its denoiser for one pass that shows these modalities.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            What is shown.
        modalities : tuple of str
            "image", "text" or both.
        timestep : float or None
            0 is the clean image, 1 is noise; None is noise, and so is any where no image is shown.
        **chosen : Any
            More of the pipeline's own arguments.

        Returns
        -------
        Call
        """
        shown = "image" in modalities
        time = 1.0 if timestep is None or not shown else timestep
        level = self.convention.level(time)
        prompts = [s.text if "text" in modalities else "" for s in stimuli]
        if shown and self._stride is None:
            gather_on_device(self.pipe, self.model)
            self._stride = measure_latents(self.pipe)[0]

        def draw(shape: tuple[int, ...]) -> Tensor:
            return noisy_latents(self.pipe, stimuli, shown, level, shape, self._stride or 0)

        return self.record(prompts, time, draw, **chosen)

    def record(self, prompts: Sequence[str], time: float, draw: Draw, **chosen: Any) -> Call:
        """Record the denoiser's call for prompts, latents and a time.

        Parameters
        ----------
        prompts : sequence of str
            One for each sample.
        time : float
            0 is the clean image, 1 is noise.
        draw : callable
            `draw(shape)` returns the latents, not yet packed.
        **chosen : Any
            More of the pipeline's own arguments.

        Returns
        -------
        Call
        """
        still, drawn = self._still(time), []

        def drawing(shape: tuple[int, ...]) -> Tensor:
            drawn.append(draw(shape))
            return drawn[-1]

        call = record_call(self.pipe, self.model, prompts, drawing, still, **self.size(), **chosen)
        if self.latents is not None and len(self.latents.places) == self.latents.count:
            _unscale(call.arguments, self.latents.name, drawn[0])
        return call

    def single_stream(self) -> PipelineExpert:
        """Return the blocks behind those with two streams, which return both as one (Flux 2), as another subject.

        Returns
        -------
        PipelineExpert

        Raises
        ------
        ValueError
            If there are no such blocks.
        """
        if not self.single:
            raise ValueError(
                f"{self.name} has no further blocks: those of {self.blocks[0]!r} to {self.blocks[-1]!r} are all"
            )
        return replace(self, name=f"{self.name} single-stream", blocks=self.single, layout="joined", single=())

    def text_expert(self) -> TextExpert:
        """Return the pipeline's text encoder, the first where it has several, as another subject.

        Returns
        -------
        TextExpert

        Raises
        ------
        ValueError
            If the pipeline has none.
        """
        encoder = getattr(self.pipe, "text_encoder", None)
        if encoder is None:
            raise ValueError(f"{self.name} has no text encoder")
        blocks = tuple(max(find_stacks(encoder).values(), key=len))
        return TextExpert(f"{self.name} text encoder", encoder, self.pipe.tokenizer, blocks)

    def _words(self, call: Call, prompts: Sequence[str]) -> Tensor:
        """Return the mask (batch, token) of the prompts' words in the text stream."""
        if self.others is None:
            self.others = [self.call([blank(text)], ("text",), None).read for text in PROBES]
        if not call.read or not all(self.others):
            raise ValueError(
                f"{self.name}: its pipeline was not seen to call a text encoder, so that the caption's words cannot be "
                "found. Show it images alone, or wrap it in your own Subject (probes/subjects/subject.py)"
            )
        table = word_table(call.read, self.others, self._pads())
        still = self._still(1.0)
        words = trace_words(self.pipe, self.model, prompts, call, table, still, **self.size())
        read = words.any(1).tolist()
        if lost := [text for text, kept in zip(prompts, read, strict=True) if text.strip() and not kept]:
            raise ValueError(
                f"{self.name}: no word of {lost[0]!r} is left among the text tokens of the denoiser: the pipeline cuts "
                "it off, or reads it elsewhere. Show it images alone"
            )
        return nn.functional.pad(words, (self.registers, 0))

    def _cut(self, call: Call, stimuli: Sequence[Stimulus]) -> tuple[tuple[int, ...], int | None]:
        """Return the stimuli whose prompt the pipeline cuts, and the number of tokens that it is cut at."""

        def again(texts: list[str]) -> Sequence[EncoderCall]:
            others = [s._replace(text=text) for s, text in zip(stimuli, texts, strict=True)]
            return self.call(others, ("text",), None).read

        return cut_prompts(call.read, [s.text for s in stimuli], again, self._pads())

    def _pads(self) -> dict[str, int]:
        """Return the token that each text encoder's tokenizer pads with."""
        found = {}
        for encoder in text_encoders(self.pipe):
            tokenizer = getattr(self.pipe, encoder.replace("text_encoder", "tokenizer"), None)
            pad = getattr(getattr(tokenizer, "tokenizer", tokenizer), "pad_token_id", None)
            if pad is not None:
                found[encoder] = pad
        return found

    def _still(self, time: float) -> Any:
        """Return the pipeline's scheduler, standing still at a time."""
        timestep = self.convention.timestep(time, gather_on_device(self.pipe, self.model))
        return frozen_scheduler(self.pipe.scheduler, timestep, self.convention.level(time).sigma)

    def _joined(self, given: dict[str, Any], words: Tensor | None) -> dict[str, Tensor | None]:
        """Return masks (batch, token) of states that hold all text tokens, then all of the image's packed latents."""
        text, latents = self.registers + given["encoder_hidden_states"].shape[1], next(iter(given.values()))
        image = latents.shape[1] if latents.dim() == 3 else self._patches(latents)
        every = torch.arange(text + image).expand(len(given["encoder_hidden_states"]), -1)
        padded = None if words is None else nn.functional.pad(words, (0, image))
        return {"image": every >= text, "text": padded}

    def _places(self, given: dict[str, Any], words: Tensor | None) -> dict[str, Tensor | None]:
        """Return positions in the flattened (batch, token) states: each sample's text, then its image, then padding."""
        text = given["encoder_attention_mask"].sum(1).cpu()
        image = self._patches(next(iter(given.values())))
        width = int(text.max()) + image
        first = torch.arange(len(text))[:, None] * width
        places: dict[str, Tensor | None] = {"image": first + text[:, None] + torch.arange(image)}
        if words is not None:
            kept = torch.where(words, torch.arange(words.shape[1]), width).sort(1).values
            kept = kept[:, : int(words.sum(1).max())]
            places["text"] = torch.where(kept < width, first + kept, -1)
        return places

    def _patches(self, latents: Tensor) -> int:
        rows, columns = (side // self.model.config.patch_size for side in latents.shape[-2:])
        return rows * columns

    def size(self) -> dict[str, int]:
        """Return the pipeline's arguments that say how large the picture is.

        Returns
        -------
        dict of str to int
        """
        offered = inspect.signature(self.pipe.__call__).parameters
        side = self.side or (offered["height"].default if "height" in offered else None)
        return {"height": side, "width": side} if side else {}


def blank(text: str) -> Stimulus:
    """Return a stimulus whose image is not looked at.

    Parameters
    ----------
    text : str
        Its text.

    Returns
    -------
    Stimulus
    """
    return Stimulus(Image.new("RGB", (1, 1)), text, "blank")


def gather_on_device(pipe: Any, denoiser: Any) -> torch.device:
    """Bring all parts of a pipeline to where its denoiser is, since whoever moves that one need not know of them.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Left alone where accelerate has placed its parts.
    denoiser : torch.nn.Module
        The pipeline's.

    Returns
    -------
    torch.device
        Where the pipeline computes.
    """
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    offloaded = getattr(pipe, "hf_device_map", None) or any(hasattr(part, ACCELERATE_HOOK) for part in parts)
    if not offloaded and any(part.device != denoiser.device for part in parts):
        pipe.to(denoiser.device)
    return execution_device(pipe)


def _unscale(arguments: dict[str, Any], name: str, drawn: Tensor) -> None:
    """Undo what the pipeline has multiplied its initial noise by, which the frozen scheduler cannot keep from it."""
    wanted, given = float(drawn.double().norm()), float(flat(arguments[name]).norm())
    if wanted and abs(given / wanted - 1) > 1e-2:
        arguments[name] = _times(arguments[name], wanted / given)


def _times(value: Any, factor: float) -> Any:
    return value * factor if isinstance(value, Tensor) else type(value)(_times(part, factor) for part in value)
