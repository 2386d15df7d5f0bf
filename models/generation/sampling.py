"""Draw images from any generator: Euler steps from noise with classifier-free guidance, or its own image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...probes.arguments import check_names, checked
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_image


class Generator:
    """Base of every model that draws images by flow matching: a generation expert, a fused or a unified model.

    A subclass has `device`, `size`, `condition` and `predict`. One that denoises latents overrides `pixels`,
    `latents` and `decode` too: here, what is denoised is the image itself. One that draws discrete image tokens has
    `draw(captions, ids, guidance)` instead of `predict`, which returns its images.

    A class of your own need not inherit: `as_generator` fills in what it lacks.

    Attributes
    ----------
    caption_type : type
        What a caption is: a text, or the class of requests that the model takes instead.
    """

    caption_type: type = str

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int, int]:
        """Channel, row, column of what is denoised."""
        raise NotImplementedError

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Channel, row, column of the images: `size`, unless latents stand for them."""
        return self.size

    def condition(self, captions: Sequence[str]) -> Any:
        """Return what `predict` takes as text, made once for all sampling steps.

        Parameters
        ----------
        captions : sequence of str
            One for each image; the empty caption is the null caption.

        Returns
        -------
        Any
            Whatever the model's own `predict` reads.
        """
        raise NotImplementedError

    def without_text(self, captions: Sequence[Any]) -> Sequence[Any]:
        """Return what guidance compares captions with: as many null captions.

        A model that is given more than captions overrides this, and leaves out the words alone.

        Parameters
        ----------
        captions : sequence
            What `condition` takes.

        Returns
        -------
        sequence
            What `condition` takes as well.
        """
        return [""] * len(captions)

    def predict(self, noisy: Tensor, text: Any, time: Tensor) -> Tensor:
        """Predict the clean image that the model sees in a noisy one.

        Parameters
        ----------
        noisy : Tensor
            Noisy images or latents, (batch, channel, row, column).
        text : Any
            What `condition` returned for the captions.
        time : Tensor
            How noisy each one is, (batch,): 0 is the clean image, 1 is noise.

        Returns
        -------
        Tensor
            (batch, channel, row, column); images lie in -1..1.
        """
        raise NotImplementedError

    def latents(self, images: Tensor) -> Tensor:
        """Return what the model denoises in place of images: the images themselves.

        Parameters
        ----------
        images : Tensor
            (batch, channel, row, column) in -1..1, of size `pixels`.

        Returns
        -------
        Tensor
            (batch, channel, row, column), of size `size`.
        """
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of what was denoised, the inverse of `latents`: here the same tensor.

        Parameters
        ----------
        latents : Tensor
            (batch, channel, row, column), of size `size`.

        Returns
        -------
        Tensor
            Images (batch, channel, row, column) in about -1..1, of size `pixels`.
        """
        return latents


class _Adapted(Generator):
    """A foreign model with the identity in place of what it lacks."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def size(self) -> tuple[int, int, int]:
        return self._model.size

    @property
    def pixels(self) -> tuple[int, int, int]:
        return getattr(self._model, "pixels", self.size)

    def condition(self, captions: Sequence[str]) -> Any:
        return self._model.condition(captions)

    def predict(self, noisy: Tensor, text: Any, time: Tensor) -> Tensor:
        return self._model.predict(noisy, text, time)

    def latents(self, images: Tensor) -> Tensor:
        return self._model.latents(images) if hasattr(self._model, "latents") else images

    def decode(self, latents: Tensor) -> Tensor:
        return self._model.decode(latents) if hasattr(self._model, "decode") else latents


def as_generator(model: Any) -> Generator:
    """Return a model as a `Generator`, whether or not its class inherits from it.

    Every function here that takes a generator takes a model of your own as well, which needs no more than what is
    called: `condition`, `predict`, `device` and `size`; as the generation expert of a fused model, `encode`, `predict`
    and `size`. Where it has no `pixels`, `latents` or `decode`, those of `Generator` stand in.

    Parameters
    ----------
    model : Any
        A `Generator`, or an object with its methods.

    Returns
    -------
    Generator
        The model itself, or an adapter around it.
    """
    return model if isinstance(model, Generator) else _Adapted(model)


def draws_tokens(model: object) -> bool:
    """Return whether a model draws whole images by its own `draw` and has nothing to denoise.

    Parameters
    ----------
    model : object
        Any model.

    Returns
    -------
    bool
    """
    return callable(getattr(model, "draw", None))


def draws(model: object) -> bool:
    """Return whether a model draws images, by denoising them or token by token.

    Parameters
    ----------
    model : object
        Any model.

    Returns
    -------
    bool
    """
    return draws_tokens(model) or all(hasattr(model, name) for name in ("condition", "predict"))


def no_generator(model: object) -> TypeError:
    """Return the error that says what a generator has, for a model that draws nothing.

    Parameters
    ----------
    model : object
        Any model.

    Returns
    -------
    TypeError
        To be raised by the caller.
    """
    return TypeError(f"expected a generator, with condition and predict or with draw, got {type(model).__name__}")


def check_sampling(
    steps: int = 16, guidance: float = 3.0, batch_size: int = 64, **others: Any
) -> tuple[int, float, int]:
    """Return the options of `generate`, or raise the error that says what is wrong with one.

    Parameters
    ----------
    steps, guidance, batch_size
        As of `generate`.
    **others
        Nothing: what is here is an option that `generate` does not have.

    Returns
    -------
    tuple of (int, float, int)
        The three options.

    Raises
    ------
    TypeError, ValueError
        An option is unknown, of another type, or out of its range.
    """
    check_names("sampling option", others, ("steps", "guidance", "batch_size"))
    return (
        checked("steps", steps, int, least=1, most=100_000),
        checked("guidance", guidance, float),
        checked("batch_size", batch_size, int, least=1),
    )


@torch.inference_mode()
def generate(
    model: Any,
    captions: Sequence[Any],
    ids: Sequence[str],
    steps: int = 16,
    guidance: float = 3.0,
    batch_size: int = 64,
) -> list[Image.Image]:
    """Draw one image for each caption, from noise that is a function of its id alone.

    Parameters
    ----------
    model : Generator
        Or any object that `as_generator` accepts, or one that draws by its own `draw`.
    captions : sequence of str
        What to draw; of an `EditingModel`, requests of the class `EditRequest`.
    ids : sequence of str
        One for each caption: the same id starts from the same noise.
    steps : int
        Euler steps from noise to image; a model with `draw` does not use them.
    guidance : float
        Weight of the caption beyond the null caption; 1 is none.
    batch_size : int
        Images that are drawn together.

    Returns
    -------
    list of PIL.Image.Image
        In the order of the captions.

    Raises
    ------
    ValueError
        If captions and ids are not equally many, or there are none, or a number is out of its range.
    TypeError
        If the model is no generator, or an argument is of another type, such as one text in place of several.

    See Also
    --------
    evaluate : Draws captions of scenes and checks the images.
    train : Trains the model that draws.

    Notes
    -----
    The model predicts the clean image `x`; the velocity at time `t` is `(z - x) / t`, and
    `x = x_null + guidance * (x_caption - x_null)` [1]_.

    References
    ----------
    .. [1] Ho and Salimans 2022, Classifier-Free Diffusion Guidance, arXiv 2207.12598.

    Examples
    --------
    >>> images = generate(dit, ["a red circle"], ["first"], steps=2)
    >>> images[0].size
    (32, 32)
    """
    if not draws(model):
        raise no_generator(model)
    parts: Any = Sequence
    captions = list(checked("captions", captions, parts[getattr(model, "caption_type", str)]))
    ids = list(checked("ids", ids, Sequence[str]))
    if len(captions) != len(ids):
        raise ValueError(f"expected one id for each caption, got {len(captions)} captions and {len(ids)} ids")
    steps, guidance, batch_size = check_sampling(steps, guidance, batch_size)
    images = []
    for start in tqdm(range(0, len(captions), batch_size), desc="generate", leave=False):
        part = captions[start : start + batch_size], ids[start : start + batch_size]
        if draws_tokens(model):
            images += model.draw(*part, guidance)
        else:
            images += _denoise(as_generator(model), *part, steps, guidance)
    return images


def _denoise(
    model: Generator, captions: Sequence[Any], ids: Sequence[str], steps: int, guidance: float
) -> list[Image.Image]:
    text, null = model.condition(captions), model.condition(model.without_text(captions))
    noisy = noise_for(ids, model.size).to(model.device)
    times = torch.linspace(1, 0, steps + 1)
    for now, then in pairwise(times):
        time = now.expand(len(captions)).to(model.device)
        blank = model.predict(noisy, null, time)
        clean = blank + guidance * (model.predict(noisy, text, time) - blank)
        noisy = noisy + (then - now) * (noisy - clean) / now
    return [to_image(image) for image in model.decode(noisy)]
