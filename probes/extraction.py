"""From stimuli to features: show a subject each stimulus, read every layer with hooks, pool inside the hook."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .capture import EMBEDDINGS, capture
from .features import Features, LayerFeatures
from .stimuli import Stimuli
from .subjects import Shown, Subject


def extract(
    subject: Subject,
    stimuli: Stimuli,
    *,
    task: str | None = None,
    timesteps: Sequence[float] = (),
    joint: bool = False,
    device: str = "auto",
    batch_size: int = 32,
) -> Features:
    """Mean-pooled hidden states of every layer, for each modality that the subject has.

    By default each modality has a pass of its own, in which the other is absent: a joint pass mixes the tokens of the
    two, and that mixing alone draws a rising curve, with random weights and unrelated captions as well.

    >>> features = extract(open_expert("scenes-dit"), stimuli, timesteps=(0.2, 0.5, 0.8))
    >>> features["image"].values.shape                  # (timestep, layer, sample, dim)
    torch.Size([3, 14, 512, 96])

    Parameters
    ----------
    task : "understanding" or "generation"; may be left out for a subject that has one task.
    timesteps : of the generation task, 0 = clean image, 1 = noise. One: values are (layer, sample, dim); several:
        (timestep, layer, sample, dim). The noise is a function of each stimulus's id. Text alone is shown with pure
        noise.
    joint : one pass with both modalities. Show it only beside the same pass over `mismatched(stimuli)`.
    device : "auto" is the GPU where there is one. The model is left on it.

    Raises ValueError for a task, timestep or modality that the subject does not have, FloatingPointError for hidden
    states that are not finite, naming the layer.
    """
    task = _check(subject, task, timesteps, joint)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    subject.model.to(device).eval()
    layers = (EMBEDDINGS, *subject.blocks)
    passes = [subject.modalities] if joint else [(m,) for m in subject.modalities]
    batches = [stimuli[start : start + batch_size] for start in range(0, len(stimuli), batch_size)]
    times = tuple(timesteps) or (None,)

    kept: dict[str, dict[tuple[int, str], list[Tensor]]] = {m: {} for m in subject.modalities}
    with tqdm(total=len(passes) * len(times) * len(batches), desc=f"extract {subject.name}", leave=False) as bar:
        for modalities in passes:
            for index, time in enumerate(times):
                if index and "image" not in modalities:  # text alone is shown with pure noise, whatever the timestep
                    _repeat(kept, modalities, index)
                    bar.update(len(batches))
                    continue
                for batch in batches:
                    shown = subject.show(batch, modalities, task, time)
                    with torch.inference_mode(), capture(subject.model, layers, keep=_pool(shown)) as taps:
                        shown.run()
                    for layer in layers:
                        for modality, state in _by_modality(taps[layer], shown).items():
                            if not torch.isfinite(state).all():
                                raise FloatingPointError(
                                    f"layer {layer!r} of {subject.name} gave NaN or infinity: try float32 weights"
                                )
                            kept[modality].setdefault((index, layer), []).append(state)
                    bar.update()

    parts = {
        modality: _stack(modality, kept[modality], layers, subject, task, joint, tuple(timesteps), stimuli)
        for modality in subject.modalities
    }
    provenance = {"stimuli": stimuli.name, "stimuli_digest": stimuli.digest, "batch_size": batch_size}
    return Features(parts, provenance)


def _check(subject: Subject, task: str | None, timesteps: Sequence[float], joint: bool) -> str:
    if task is None and len(subject.tasks) == 1:
        task = subject.tasks[0]
    if task not in subject.tasks:
        raise ValueError(f"unknown task {task!r}: {subject.name} has {', '.join(subject.tasks)}")
    timed = task in subject.timed_tasks
    if timed != bool(timesteps):
        need = "needs timesteps, such as timesteps=(.2, .5, .8)" if timed else "takes no timesteps"
        raise ValueError(f"{subject.name} {need}")
    if not all(0 < t <= 1 for t in timesteps):
        raise ValueError(f"timesteps {tuple(timesteps)} must lie in 0 (clean image, excluded) to 1 (noise)")
    if joint and len(subject.modalities) < 2:
        raise ValueError(f"{subject.name} sees {subject.modalities[0]} alone: it has no joint pass")
    return task


def _repeat(kept: dict[str, dict[tuple[int, str], list[Tensor]]], modalities: tuple[str, ...], index: int) -> None:
    for modality in modalities:
        first = {layer: states for (at, layer), states in kept[modality].items() if at == 0}
        kept[modality] |= {(index, layer): states for layer, states in first.items()}


def _pool(shown: Shown) -> Callable[[str, str | None, Tensor], dict[str, Tensor]]:
    """Average each modality's tokens while the model runs, so that no unpooled state is held: (batch, dim), float32."""

    def keep(path: str, stream: str | None, state: Tensor) -> dict[str, Tensor]:
        pooled = {}
        for modality, mask in shown.tokens.items():
            if stream != shown.streams.get(modality):
                continue
            if state.shape[:2] != mask.shape:
                raise ValueError(
                    f"layer {path!r} has hidden states (batch, token, dim) {tuple(state.shape)}, "
                    f"but the {modality} mask is {tuple(mask.shape)}"
                )
            weight = (mask / mask.sum(1, keepdim=True)).to(state.device, torch.float32)  # (batch, token)
            pooled[modality] = torch.einsum("btd,bt->bd", state.float(), weight).cpu()
        return pooled

    return keep


def _by_modality(tap: dict[str, Any], shown: Shown) -> dict[str, Tensor]:
    """The pooled states of one layer, whether its block has one stream or several."""
    if any(isinstance(value, dict) for value in tap.values()):
        tap = {modality: state for stream in tap.values() for modality, state in stream.items()}
    return {modality: tap[modality] for modality in shown.tokens if modality in tap}


def _stack(
    modality: str,
    kept: dict[tuple[int, str], list[Tensor]],
    layers: Sequence[str],
    subject: Subject,
    task: str,
    joint: bool,
    timesteps: tuple[float, ...],
    stimuli: Stimuli,
) -> LayerFeatures:
    there = [(number, layer) for number, layer in enumerate(layers) if (0, layer) in kept]
    values = torch.stack(  # (timestep, layer, sample, dim)
        [torch.stack([torch.cat(kept[index, layer]) for _, layer in there]) for index in range(max(1, len(timesteps)))]
    )
    return LayerFeatures(
        values=values if len(timesteps) > 1 else values[0],
        layers=tuple(EMBEDDINGS if number == 0 else str(number - 1) for number, _ in there),
        depths=tuple(number / (len(layers) - 1) for number, _ in there),
        modality=modality,
        subject=subject.name,
        task=task,
        pass_="joint" if joint else "separate",
        pooling="mean",
        timesteps=timesteps,
        samples=tuple(s.id for s in stimuli),
    )


def mismatched(stimuli: Stimuli, seed: int = 0) -> Stimuli:
    """The same images and texts, no image with its own text: the control that every joint pass needs.

    Each text goes to the next image around one random circle, so that none stays.
    """
    if len(stimuli) < 2:
        raise ValueError("one stimulus cannot be mismatched: give at least two")
    samples = list(stimuli)
    circle = np.random.default_rng(seed).permutation(len(samples))
    texts = dict(zip(circle, np.roll(circle, 1), strict=True))
    return Stimuli(
        [s._replace(text=samples[texts[i]].text) for i, s in enumerate(samples)], f"{stimuli.name} mismatched"
    )


def noise_for(ids: Sequence[str], shape: tuple[int, ...]) -> Tensor:
    """Gaussian noise (sample, *shape), each sample's a function of its id alone."""
    seeds = [int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") for i in ids]
    return torch.from_numpy(
        np.stack([np.random.default_rng(s).standard_normal(shape, dtype=np.float32) for s in seeds])
    )
