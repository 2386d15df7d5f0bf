"""Probe a fused model like any expert, on both tasks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...probes.arguments import checked
from ...probes.features.patch_grids import square_patches
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass, Subject
from ..towers.visiting import visiting
from .expert_passes import noise_pass
from .fused_model import FusedModel


@dataclass
class FusedGenerator:
    """The generation tower of a fused model, which reads text through its bridges.

    The generator's own text input is always the null caption, so the image tokens stand in for text. "image" is the
    noisy image with the null caption on the bridges, "text" is the caption on the bridges with pure noise. Both are
    pooled over the image tokens.

    Attributes
    ----------
    name : str
        The subject's name.
    fused : FusedModel
        The fused model.
    model : torch.nn.Module
        The generation tower's model.
    blocks : tuple of str
        The generation tower's blocks.
    """

    name: str
    fused: FusedModel
    model: torch.nn.Module
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("generation",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ("generation",)
    _tokens: tuple[str | None, Tensor] | None = field(default=None, repr=False)  # measured when it is shown first

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows the images or the texts of the stimuli.

        Raises
        ------
        ValueError
            Both modalities are asked for, or the image tokens do not stand as (batch, token, dim).
        """
        if len(modalities) > 1:
            raise ValueError(
                f"{self.name} has no joint pass: image and text would be the same tokens of its image stream"
            )
        (modality,) = modalities
        fused, device = self.fused, self.fused.device
        fused.to(device)  # `extract` moves the tower alone
        if self._tokens is None:
            self._tokens = _image_tokens(fused)
        stream, mask = self._tokens
        texts = [s.text if modality == "text" else "" for s in stimuli]
        if modality == "image":
            time = 1.0 if timestep is None else timestep
            noisy = time * noise_for([s.id for s in stimuli], fused.size).to(device)
            noisy = noisy + (1 - time) * fused.targets(stimuli)
        else:  # another noise than the image's: passes that share noise would be alike for that alone
            time, noisy = 1.0, noise_for([f"{s.id} without its image" for s in stimuli], fused.size).to(device)
        times = torch.full((len(stimuli),), time, device=device)
        return ForwardPass(
            lambda: fused.predict(noisy, fused.condition(texts), times),
            {modality: mask.expand(len(stimuli), -1)},
            {modality: stream},
            grids={"image": lambda: [square_patches(*fused.size[1:], int(mask.sum()))] * len(stimuli)},
        )


def fused_subject(fused: FusedModel, task: str) -> Subject:
    """Return the tower of a fused model that does a task, ready for `extract`.

    The subject of understanding is the understanding expert by itself, as it answers questions. One way, training the
    bridges cannot change it; after `adapt` it is the trained expert. Both ways, bridges change its states as well where
    it reads captions, which this subject does not show; a warning says so.

    Parameters
    ----------
    fused : FusedModel
        The fused model.
    task : {"understanding", "generation"}
        The task.

    Returns
    -------
    Subject
        The tower, with the name "fused".

    Raises
    ------
    ValueError
        Another task.
    TypeError
        It is no fused model.

    See Also
    --------
    FusedModel : Draws and is trained; this is for probing it.
    bridgework.probes.extract : Takes what this returns.

    Examples
    --------
    >>> features = extract(fused_subject(fused, "generation"), stimuli[:4], timesteps=(0.5,))
    """
    if not isinstance(fused, FusedModel):
        raise TypeError(f"fused is a {type(fused).__name__}: expected a FusedModel")
    checked("task", task, str, known=("understanding", "generation"))
    understanding, generation = fused.experts
    if task == "understanding":
        if fused.plan.both_ways:
            warnings.warn(
                "features of a fused model both ways show the understanding expert by itself, as it answers questions, "
                "and not what its bridges bring it while it reads captions",
                stacklevel=2,
            )
        return _named_fused(understanding)
    return FusedGenerator("fused", fused, generation.model, generation.blocks)


def _named_fused(expert: Any) -> Any:
    """Return an expert of any class under the name "fused", with the same model."""
    if is_dataclass(expert):
        return replace(expert, name="fused")  # type: ignore[type-var]
    renamed: Any = copy.copy(expert)
    renamed.name = "fused"
    return renamed


@torch.no_grad()
def _image_tokens(fused: FusedModel) -> tuple[str | None, Tensor]:
    """Return the stream that holds the generator's image tokens, and which of its tokens they are, (token,)."""
    tower = fused.image_tower()
    ((stream, layout),) = tower.layouts.items()
    if layout.batch != 0 or layout.dim != -1:
        raise ValueError(
            f"the blocks of {fused.experts[1].name} do not hold their tokens as (batch, token, dim): probe the expert "
            "alone, as extract(expert, ...)"
        )
    if layout.chosen is not None:
        return stream, torch.zeros(layout.tokens, dtype=torch.bool).index_fill(0, torch.tensor(layout.chosen), True)
    counts: list[int] = []
    with visiting(tower, {0: lambda state: counts.append(state.shape[1])}):
        noise_pass(fused.experts[1])()
    return stream, torch.ones(counts[0], dtype=torch.bool)
