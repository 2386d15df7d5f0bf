"""Make a diffusers pipeline the generation side of a fused model: it draws latents, which its autoencoder decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from ....probes.hooks.block_stacks import find_stacks
from ...generation.sampling import Generator
from .latents import clean_latents, decode_latents, measure_latents
from .pipeline_expert import PipelineExpert

_DIGIT = 256  # whole numbers below it are exact in bfloat16
_DIGITS = 3
_TEXT = "encoder_hidden_states"


class LatentGenerator(Generator):
    """A pipeline of any family that draws still images, or a video of one frame, by flow matching.

    What its denoiser is given beside latents, text and time (pooled vectors, positions, shapes, guidance) is what the
    pipeline itself gives it for an empty prompt, recorded here once (models/experts/diffusion/recorded_call.py): the
    pipeline's text encoders are not run again but by `condition`. How it packs latents, and the units of its timestep,
    are measured (models/experts/diffusion/conventions.py).

    Parameters
    ----------
    expert : PipelineExpert
        An open pipeline that draws batches.

    Raises
    ------
    ValueError
        If the schedule is not flow matching, the pipeline draws several frames, or it changes its latents before it
        denoises them.
    TypeError
        If this is no such pipeline, or its text cannot be left out.

    See Also
    --------
    open_expert : Opens the pipeline, which can be probed as it is.
    FusedModel : Makes a generator of a pipeline by itself.

    Examples
    --------
    >>> generation = LatentGenerator(open_expert("stabilityai/stable-diffusion-3.5-medium"))
    >>> fused = FusedModel(open_expert("Qwen/Qwen2.5-VL-7B-Instruct"), generation, plan)
    >>> train(fused, folder, data=stimuli)                        # `latents` of their images
    >>> images = generate(fused, captions, ids)                   # decoded
    """

    def __init__(self, expert: PipelineExpert) -> None:
        if not isinstance(expert, PipelineExpert) or hasattr(expert, "max_batch"):
            raise TypeError(f"expected a diffusers pipeline that draws batches, got {type(expert).__name__}")
        scheduler = expert.pipe.scheduler
        if not expert.convention.flow or expert.convention.target in ("noise", "v"):
            raise ValueError(
                f"{expert.name} is not trained by flow matching: its {type(scheduler).__name__} is of another "
                "schedule. Take one such as SD3, Flux, Qwen-Image or Wan"
            )
        self.expert, self.name, self.model = expert, expert.name, expert.model
        # Flux's blocks are of two kinds: bridges stand in one stack, that with both streams.
        self.blocks = next(tuple(s) for s in find_stacks(self.model).values() if expert.blocks[0] in s)
        shapes: list[tuple[int, ...]] = []

        def numbered(shape: tuple[int, ...]) -> Tensor:
            """Number each latent, one digit a sample: what packing does with them is read off."""
            shapes.append(shape)
            numbers = torch.arange(_product(shape[1:]))
            digits = torch.stack([numbers // _DIGIT**place % _DIGIT for place in range(_DIGITS)])
            return digits.view(shape).float()

        self._latents = expert.latents.name if expert.latents else ""
        packed = expert.record([""] * _DIGITS, 1.0, numbered).arguments
        lacking = [name for name in (_TEXT, "timestep") if name not in packed]
        if lacking or not isinstance(packed[self._latents], Tensor):
            raise TypeError(
                f"{type(self.model).__name__} takes no {lacking[0] if lacking else 'batch of latents'}: what it is "
                "given cannot be exchanged"
            )
        digits = packed[self._latents].flatten(1).double().cpu()
        self._order = torch.stack([row * _DIGIT**place for place, row in enumerate(digits)]).sum(0).round().long()
        self._size = _still(self.name, shapes[0])
        if sorted(self._order.tolist()) != list(range(_product(self.size))):
            raise ValueError(f"{self.name} changes its latents before it denoises them: no fused model can draw them")
        self._stride, channels = measure_latents(expert.pipe)
        if channels != self._size[0]:
            raise ValueError(
                f"{self.name} draws latents {shapes[0]}, whose second axis is not that of the {channels} channels of "
                "its autoencoder: no fused model can draw them"
            )
        self._one, self._two = (expert.record([""] * count, 1.0, torch.zeros).arguments for count in (1, 2))
        self._clock, self._start, self._slope = self._told()

    def _told(self) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        """Return how the denoiser is told the time: start + slope * clock(time)."""
        times = (1.0, 0.5, 0.25)
        late, middle, early = (self.expert.record([""], t, torch.zeros).arguments["timestep"].double() for t in times)
        for clock in (self.expert.convention.counted, torch.Tensor.double):
            last, half, quarter = clock(torch.tensor(times, dtype=torch.float64)).tolist()
            slope = (late - middle) / (last - half)
            if torch.allclose(early, late + slope * (quarter - last), rtol=1e-3, atol=1e-6):
                return clock, late - slope * last, slope
        raise ValueError(f"{self.name} tells its denoiser the time in units that are not known here")

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.model.device

    @property
    def size(self) -> tuple[int, int, int]:
        """Channel, row, column of the latents."""
        return self._size

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Channel, row, column of the images behind them."""
        return 3, self.size[1] * self._stride, self.size[2] * self._stride

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the text states of the empty prompt.

        Parameters
        ----------
        texts : sequence of str
            Empty ones.

        Returns
        -------
        Tensor
            (batch, token, dim).

        Raises
        ------
        ValueError
            If a text is not empty: `condition` reads those.
        """
        if any(texts):
            raise ValueError(f"{self.name} has encoded the empty prompt alone: condition reads other texts")
        return _rows(self._one[_TEXT], self._two[_TEXT], len(texts)).to(self.device)

    def condition(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return what `predict` takes as text: all that the pipeline gives its denoiser for these captions.

        Parameters
        ----------
        captions : sequence of str
            Read by the pipeline's own text encoders.

        Returns
        -------
        dict
            By the names of the denoiser's arguments.
        """
        return self.expert.record(list(captions), 1.0, torch.zeros).arguments

    def predict(self, noisy: Tensor, text: Tensor | Mapping[str, Any], time: Tensor) -> Tensor:
        """Predict the clean latents that the denoiser sees in noisy ones.

        Parameters
        ----------
        noisy : Tensor
            (batch, channel, row, column).
        text : Tensor or mapping
            Text states (batch, token, dim) in the place of the empty prompt's, or what `condition` returns.
        time : Tensor
            (batch,), 1 is noise.

        Returns
        -------
        Tensor
            (batch, channel, row, column).

        Raises
        ------
        ValueError
            If there is another number of text tokens, and a further argument of the denoiser says how many there are.

        Notes
        -----
        They are noisy - time * velocity where the pipeline takes the denoiser's output for the velocity from image to
        noise, and noisy + time * velocity where it takes it for the other (Mochi, Lumina, Z-Image). Which of the two is
        measured in the pipeline's own loop when it is opened.
        """
        count = len(noisy)
        arguments = dict(text) if isinstance(text, Mapping) else _rows(self._one, self._two, count)
        given = dict(send_to_device(arguments, noisy.device))
        if isinstance(text, Tensor):
            counts = [n for n in given if n != _TEXT and ("mask" in n or n in ("txt_ids", "txt_seq_lens"))]
            counts = [name for name in counts if given[name] is not None]
            if text.shape[1] != given[_TEXT].shape[1] and counts:
                raise ValueError(
                    f"{self.name} is given {text.shape[1]} text tokens, but its {counts[0]} counts "
                    f"{given[_TEXT].shape[1]}: its own text takes no semantic tokens"
                )
            given[_TEXT] = text.to(given[_TEXT].dtype)
        order = self._order.to(noisy.device)
        template = given[self._latents]
        given[self._latents] = noisy.flatten(1)[:, order].view(count, *template.shape[1:]).to(template.dtype)
        now = self._clock(time).view(-1, *[1] * (self._slope.dim() - 1))
        start, slope = self._start.to(noisy.device), self._slope.to(noisy.device)
        given["timestep"] = (start + slope * now).to(given["timestep"].dtype)
        packed = self.model(**given)[0].to(noisy.dtype).flatten(1)
        predicted = torch.empty_like(packed).index_copy(1, order, packed).view_as(noisy)
        if self.expert.convention.target == "image":
            return predicted
        sign = -1 if self.expert.convention.target == "image - noise" else 1
        return noisy - sign * time[:, None, None, None] * predicted

    def latents(self, images: Tensor) -> Tensor:
        """Return the clean latents of images.

        Parameters
        ----------
        images : Tensor
            (batch, channel, row, column) in -1..1, of size `pixels`.

        Returns
        -------
        Tensor
            (batch, channel, row, column).

        Raises
        ------
        ValueError
            If the images have another size.
        """
        if tuple(images.shape[1:]) != self.pixels:
            raise ValueError(f"{self.name} draws images of {self.pixels}, got {tuple(images.shape[1:])}: resize them")
        return clean_latents(self.expert.pipe, images).to(images).view(len(images), *self.size)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of latents.

        Parameters
        ----------
        latents : Tensor
            (batch, channel, row, column).

        Returns
        -------
        Tensor
            (batch, channel, row, column), in -1..1 but for what the autoencoder overshoots.
        """
        return decode_latents(self.expert.pipe, latents).to(latents)


def _product(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _still(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channel, row, column of latents (batch, channel, row, column), or with one frame beside the channels."""
    kept = list(shape[1:])
    if len(kept) == 4:
        frame = 1 if kept[1] == 1 else 0
        if kept.pop(frame) != 1:
            raise ValueError(f"{name} draws videos of several frames, latents {tuple(shape)}: a still image has one")
    return kept[0], kept[1], kept[2]


def _rows(one: Any, two: Any, count: int) -> Any:
    """Return what a call would be given for `count` samples, from what it is given for one and for two."""
    if isinstance(one, Tensor):
        axis = next((axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b), None)
        return one if axis is None else torch.cat([one] * count, axis)
    if isinstance(one, Mapping):
        return {name: _rows(value, two[name], count) for name, value in one.items()}
    if isinstance(one, list | tuple):
        return type(one)([*one] * count) if len(two) != len(one) else one
    return one
