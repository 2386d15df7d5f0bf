"""Probe a trunk that does both tasks like any expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass, Subject
from ..experts.token_rows import pad
from ..generation.flow import noisy_images
from .flow_model import PATCH, UnifiedModel
from .one_trunk import OneTrunk
from .token_model import UnifiedTokens

TASKS = ("understanding", "generation")


@dataclass
class TrunkSubject:
    """One trunk on one of its tasks.

    Attributes
    ----------
    name : str
        The subject's name.
    model : OneTrunk
        The unified model.
    blocks : tuple of str
        Paths of the blocks that the task passes, in depth order.
    tasks : tuple of str
        The task.
    modalities : tuple of str
        "image" and "text".
    timed_tasks : tuple of str
        "generation" where the model denoises.
    """

    name: str
    model: OneTrunk
    blocks: tuple[str, ...]
    tasks: tuple[str, ...]
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ()

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
        task : str
            The subject's task.
        timestep : float or None
            Of a model that denoises: 0 is the clean image, 1 is noise; None is noise.

        Returns
        -------
        ForwardPass
        """
        if task == "understanding":
            return self._read(stimuli, modalities)
        return self._draw(stimuli, modalities, timestep)

    def _read(self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...]) -> ForwardPass:
        """Show clean images in front of texts, behind the begin token."""
        model, config = self.model, self.model.reader.config
        image = [config.image_token_id] * (config.image_seq_length if "image" in modalities else 0)
        texts = [s.text if "text" in modalities else "" for s in stimuli]
        words = model.tokenizer(texts, add_special_tokens=False).input_ids
        rows = [[model.tokenizer.bos_token_id, *image, *row] for row in words]
        ids, mask = pad(rows, model.tokenizer.pad_token_id, model.device)
        pixels = to_pixels([s.image for s in stimuli], model.size[1]) if image else None
        is_image = ids == config.image_token_id
        first = _first(ids)
        places = {"image": is_image, "text": mask.bool() & ~is_image & ~first}
        return ForwardPass(
            lambda: model.read(ids, mask, None if pixels is None else pixels.to(model.device)),
            {modality: places[modality] for modality in modalities},
            special=dict.fromkeys(modalities[-1:], first),
        )

    def _draw(self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], timestep: float | None) -> ForwardPass:
        """Show captions, the null caption without text, in front of the image that is drawn."""
        model, shown = self.model, "image" in modalities
        text = model.condition([s.text if "text" in modalities else "" for s in stimuli])
        if isinstance(model, UnifiedModel):
            noisy, time = noisy_images(stimuli, shown, timestep, model.size[1])

            def run() -> Tensor:
                return model.predict(noisy.to(model.device), text, time.to(model.device))

            count = (model.size[1] // PATCH) ** 2
        else:
            assert isinstance(model, UnifiedTokens)
            images = to_pixels([s.image for s in stimuli], model.size[1]).to(model.device)
            codes = model.book.encode(images)[:, : -1 if shown else 0]

            def run() -> Tensor:
                return model.following(text, codes)

            count = codes.shape[1] + 1  # the token that begins an image is one of them
        image = torch.cat([torch.zeros_like(text.real), text.real.new_ones(len(stimuli), count)], 1)
        first = _first(image)
        words = nn.functional.pad(text.real, (0, count)) & ~first
        places = {"image": image, "text": words}
        return ForwardPass(
            run, {modality: places[modality] for modality in modalities}, special={modalities[-1]: first}
        )


def unified_subject(unified: OneTrunk, task: str) -> Subject:
    """Return one trunk on one of its tasks, ready for `extract`.

    Images and texts are shown apart: an image behind the begin token, or behind the null caption where it is drawn; a
    text behind the begin token, with pure noise in the image's place where one is drawn.

    Parameters
    ----------
    unified : UnifiedModel or UnifiedTokens
        The model, of the layout "shared" or "Y". Behind the fork of a Y the blocks are those of the task.
    task : {"understanding", "generation"}
        The task.

    Returns
    -------
    Subject
        The trunk, with the model's name. "generation" has timesteps where the model denoises.

    Raises
    ------
    TypeError
        The model is no unified model.
    ValueError
        Another task, or the layout "X": at its ends a block holds the tokens of one modality alone.

    See Also
    --------
    fused_subject : Probes a model of two towers, where this has one trunk.
    bridgework.probes.extract : Takes what this returns.

    Examples
    --------
    >>> features = extract(unified_subject(unified, "understanding"), stimuli[:4])
    >>> features["text"].layers[:2]
    ('embeddings', '0')
    """
    if not isinstance(unified, OneTrunk):
        raise TypeError(
            f"expected a UnifiedModel or UnifiedTokens, got {type(unified).__name__}: a FusedModel is probed by "
            "fused_subject, an expert as it is"
        )
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: expected understanding or generation")
    if unified.plan.layout == "X":
        raise ValueError(
            "the ends of the layout 'X' hold text and image tokens in different blocks, so that a block has no state "
            "of both: probe 'shared' or 'Y'"
        )
    trunk = unified.trunk
    apart = trunk.apart if task == "generation" else ()
    stem = "reader.model.language_model"
    blocks = tuple(f"{stem}.{'own_layers' if i in apart else 'layers'}.{i}" for i in range(len(trunk.layers)))
    timed = ("generation",) if task == "generation" and isinstance(unified, UnifiedModel) else ()
    return TrunkSubject(unified.name, unified, blocks, (task,), timed_tasks=timed)


def _first(tokens: Tensor) -> Tensor:
    """Return a mask (batch, token) of the begin token."""
    first = torch.zeros_like(tokens, dtype=torch.bool)
    first[:, 0] = True
    return first
