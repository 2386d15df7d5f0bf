"""Let a fused model edit: it reads an instruction through its bridges, and sees a source image.

The source enters as semantic tokens, as spatial tokens, or as both. Semantic: the understanding expert sees the source
before it reads the instruction, and the bridges read its states of image and words. Spatial: the source's patches are
added to the noisy ones (models/editing/spatial_entry.py), and the understanding expert reads the words alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ...probes.files import write_atomically
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.tensor_files import read_tensors, sealed
from ..fusion.fused_model import FusedModel
from ..fusion.saved_model import load_state
from ..fusion.two_towers import UnderstandingStates
from ..generation.sampling import Generator
from .spatial_entry import SpatialEntry

SOURCES = ("semantic", "spatial", "both")
ENTRY = "source.safetensors"


class EditRequest(NamedTuple):
    """Hold what an editing model is asked for.

    Attributes
    ----------
    source : PIL.Image.Image
        What is edited.
    instruction : str
        What is asked for; the empty text asks for nothing.

    See Also
    --------
    EditingModel : Takes requests wherever a generator takes captions.

    Examples
    --------
    >>> EditRequest(Image.new("RGB", (32, 32), "white"), "add a red circle top left").instruction
    'add a red circle top left'
    """

    source: Image.Image
    instruction: str


class EditStates(NamedTuple):
    """Hold what an editing model reads of requests, made once for all sampling steps.

    Attributes
    ----------
    text : UnderstandingStates
        What the bridges read.
    source : Tensor or None
        The generator's own embedding of the sources, (batch, patch, dim).
    """

    text: UnderstandingStates
    source: Tensor | None


class EditingModel(nn.Module, Generator):
    """A fused model that edits a source by an instruction. Trained are the bridges, and the entry of spatial tokens.

    Wherever a generator takes captions, this one takes `EditRequest`s: `generate` draws results, and the loss of
    `flow_loss` trains it. Guidance weighs the instruction alone: its null request has the source and no words.

    Parameters
    ----------
    fused : FusedModel
        The two experts, joined by a plan that runs one way.
    source : {"semantic", "spatial", "both"}
        How the source enters. "spatial" and "both" add an entry whose gate is 0 at first.

    Attributes
    ----------
    fused : FusedModel
        The fused model.
    source : str
        How the source enters.
    entry : SpatialEntry or None
        Where spatial tokens enter.

    Raises
    ------
    ValueError
        Another word; a plan that runs both ways; an understanding expert that reads no images, for semantic tokens; a
        generation expert without a patch embedding, for spatial ones.

    See Also
    --------
    FusedModel : Draws from captions, without a source.
    score_edits : Scores what it makes.

    Examples
    --------
    >>> from bridgework.models.editing.editing_model import EditRequest
    >>> fused = FusedModel(open_expert("scenes-vlm"), open_expert("scenes-dit"), lay_out("H", 16, 13))
    >>> editor = EditingModel(fused, source="both")
    >>> source = Image.new("RGB", (32, 32), "white")
    >>> generate(editor, [EditRequest(source, "add a red circle top left")], ["first"], steps=2)
    """

    caption_type = EditRequest

    def __init__(self, fused: FusedModel, source: str = "both") -> None:
        super().__init__()
        if source not in SOURCES:
            raise ValueError(f"unknown source tokens {source!r}: expected one of {', '.join(SOURCES)}")
        if fused.plan.both_ways:
            raise ValueError("an editing model reads its source before it draws: plan it one way, both_ways=False")
        reader, drawer = fused.experts
        if source != "spatial" and "image" not in reader.modalities:
            raise ValueError(f"{reader.name} reads no images: let the source enter as 'spatial' tokens")
        self.fused, self.source = fused, source
        self.entry = None if source == "semantic" else SpatialEntry(drawer)

    @property
    def device(self) -> torch.device:
        """Where the generation tower computes."""
        return self.fused.device

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of what is drawn: images or latents."""
        return self.fused.size

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the images that are edited."""
        return self.fused.pixels

    def latents(self, images: Tensor) -> Tensor:
        """Return what is drawn of images (batch, channel, row, column) in -1..1: latents if the generator has any."""
        return self.fused.latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of what was drawn, images or latents: (batch, channel, row, column) both."""
        return self.fused.decode(latents)

    def trained(self) -> nn.ModuleDict:
        """Return what is trained and saved: all of the fused model's, and the entry of spatial tokens."""
        parts: dict[str, nn.Module] = {**self.fused.trained()}
        if self.entry is not None:
            parts["entry"] = self.entry
        return nn.ModuleDict(parts)

    def without_text(self, captions: Sequence[Any]) -> list[EditRequest]:
        """Return the null requests of these: their sources, and no words.

        Parameters
        ----------
        captions : sequence of EditRequest
            The requests.

        Returns
        -------
        list of EditRequest
            As many requests that ask for nothing.
        """
        return [EditRequest(request.source, "") for request in captions]

    def condition(self, captions: Sequence[Any]) -> EditStates:
        """Return what the bridges and the entry read of requests.

        Parameters
        ----------
        captions : sequence of EditRequest
            The requests.

        Returns
        -------
        EditStates
            What `predict` takes.

        Raises
        ------
        TypeError
            Something else is given, such as captions.
        """
        for request in captions:
            if not (isinstance(request, EditRequest) and isinstance(request.source, Image.Image)):
                raise TypeError(
                    f"an editing model takes requests, got {request!r:.60}: give EditRequest(source image, instruction)"
                )
        words = [request.instruction for request in captions]
        text = self.fused.condition(words) if self.source == "spatial" else self._read_both(captions)
        if self.entry is None:
            return EditStates(text, None)
        _, rows, columns = self.pixels
        source = to_pixels([request.source for request in captions], rows, columns).to(self.device)
        return EditStates(text, self.entry.embed(self.latents(source)))

    def _read_both(self, requests: Sequence[EditRequest]) -> UnderstandingStates:
        """Let the understanding expert see the sources and then read the instructions."""
        expert = self.fused.experts[0]
        shown = [Stimulus(source, words, words) for source, words in requests]
        ready = expert.show(shown, ("image", "text"), "understanding", None)
        mask = torch.stack([*ready.tokens.values(), *ready.special.values()]).any(0)
        run = ready.run if self.fused.trained_experts != "bridges" else torch.no_grad()(ready.run)
        return self.fused.read(run, mask.to(self.device))

    def predict(self, noisy: Tensor, text: EditStates, time: Tensor) -> Tensor:
        """Predict the clean result from a noisy one.

        Parameters
        ----------
        noisy : Tensor
            (batch, channel, row, column).
        text : EditStates
            What `condition` returned for the requests.
        time : Tensor
            (batch,), 0 = clean, 1 = noise.

        Returns
        -------
        Tensor
            (batch, channel, row, column).
        """
        seen = nullcontext() if self.entry is None or text.source is None else self.entry.adding(text.source)
        with seen:
            return self.fused.predict(noisy, text.text, time)

    def train(self, mode: bool = True) -> EditingModel:
        """Set the training mode. Frozen experts stay in evaluation mode."""
        self.training = mode
        self.fused.train(mode)
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fused model as it writes itself, and how the source enters: source.safetensors beside it.

        Parameters
        ----------
        folder : str or os.PathLike
            The folder that gets the files.
        """
        self.fused.save(Path(folder))
        state = {} if self.entry is None else dict(self.entry.state_dict())
        metadata = sealed(state, {"source": self.source})
        write_atomically(Path(folder) / ENTRY, lambda path: save_file(state, path, metadata=metadata))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], understanding: Any, generation: Any) -> EditingModel:
        """Open what `save` wrote, on the same two experts.

        Parameters
        ----------
        folder : str or os.PathLike
            The folder that `save` wrote.
        understanding, generation : Any
            The experts, as for `FusedModel`.

        Returns
        -------
        EditingModel
            The trained model.

        Raises
        ------
        FileNotFoundError
            The folder holds no editing model.
        ValueError
            A file is damaged, or belongs to another plan or to other experts.
        """
        path = Path(folder) / ENTRY
        if not path.is_file():
            raise FileNotFoundError(
                f"no editing model in {os.fspath(folder)!r}: expected {ENTRY}, as EditingModel.save writes; a fused "
                "model without a source is opened by FusedModel.load"
            )
        state, about, _ = read_tensors(path)
        model = cls(FusedModel.load(Path(folder), understanding, generation), (about or {}).get("source", ""))
        if model.entry is not None:
            load_state(path, model.entry, dict(model.entry.named_parameters()), state)
        return model
