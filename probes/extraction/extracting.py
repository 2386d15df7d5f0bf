"""From stimuli to features: show a subject each stimulus, read every layer with hooks, pool inside the hook."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..features.features import Features
from ..features.store import write_index
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject
from .jobs import prepare_job
from .processes import Processes
from .token_selection import Chosen


def extract(
    subject: Subject,
    stimuli: Stimuli,
    *,
    task: str | None = None,
    timesteps: Sequence[float] = (),
    joint: bool = False,
    layers: Sequence[str] | None = None,
    pooling: str = "mean",
    tokens: Mapping[str, Chosen] | None = None,
    special: bool = False,
    cleaned: bool = False,
    dtype: torch.dtype = torch.float32,
    precision: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    store: str | os.PathLike[str] | None = None,
) -> Features:
    """Pooled hidden states of every layer, for each modality that the subject has.

    By default each modality has a pass of its own, in which the other is absent: a joint pass mixes the tokens of the
    two, and that mixing alone draws a rising curve, with random weights and unrelated captions as well.

    >>> features = extract(open_expert("scenes-dit"), stimuli, timesteps=(0.2, 0.5, 0.8), store="runs/dit")
    >>> features["image"].values.shape                  # (timestep, layer, sample, dim)
    torch.Size([3, 14, 512, 96])

    Parameters
    ----------
    task : "understanding" or "generation"; may be left out for a subject that has one task.
    timesteps : of the generation task, 0 = clean image, 1 = noise. One: values are (layer, sample, dim); several:
        (timestep, layer, sample, dim). The noise is a function of each stimulus's id. Text alone is shown with pure
        noise: its pass runs at timestep 1, once, and its values are the same at all of them.
    joint : one pass with both modalities. Show it only beside the same pass over `mismatched(stimuli)`.
    layers : the names of those to read, "embeddings", "0", "1", ..., or paths in the model; None for all. A pass ends
        behind the deepest.
    pooling : "mean", "last", "first", "none" (all tokens) or a patch grid, "grid:4", of the image tokens; the text's
        are averaged beside it. Sinks, padding, special and template tokens are left out.
    tokens : for a modality, some of its tokens: a slice, positions or a bool mask over the modality's own tokens in
        reading order. Where a subject cannot tell which tokens are a modality's, that is over all tokens of a sample.
    special : pool a modality's special tokens (first-token sinks, class tokens) as well.
    cleaned : beside raw features keep cleaned ones, `features["image"].cleaned` (pooling.pool, then z-scores).
    dtype : of what is kept, float32, float16 or bfloat16; pooling is always done in float32.
    precision : "bf16" or "fp16" runs the model under autocast.
    device : "auto" is the GPU where there is one. The model is left on it. A model that accelerate has dispatched
        (device_map, CPU offload) stays as it is.
    batch_size : stimuli at once. It is halved, with a warning, where memory does not suffice.
    store : a folder to write, shard by shard (probes/features/store.py): then no more than a shard's features are in memory, and
        an extraction that was stopped goes on from there. Under torchrun all ranks must call `extract`, and share it.

    Raises ValueError for a task, timestep, modality, layer or token that the subject does not have, and for a folder
    with features of something else; RuntimeError for a layer that runs more than once in a pass; FloatingPointError for
    hidden states that are not finite, naming layer and stimulus; MemoryError where one stimulus alone does not fit;
    OSError for a store that cannot be written.
    """
    work = prepare_job(
        subject,
        stimuli,
        task=task,
        timesteps=timesteps,
        joint=joint,
        layers=layers,
        pooling=pooling,
        tokens=tokens,
        special=special,
        cleaned=cleaned,
        dtype=dtype,
        precision=precision,
        device=device,
        batch_size=batch_size,
    )
    if store is None:
        return work.features()
    folder = Path(store)
    with Processes() as ranks:
        work.write(folder, range(ranks.rank, len(work), ranks.world), show=ranks.rank == 0)
        ranks.wait()
        if ranks.rank == 0:
            write_index(folder, len(work))
        ranks.wait()
    return Features.load(folder)


def extract_cached(folder: Path, subject: Subject, stimuli: Stimuli, **options: Any) -> Features:
    """`extract` into a store of its own for the same weights, stimuli, options and versions; goes on with one begun."""
    made = json.dumps(prepare_job(subject, stimuli, **options).provenance, sort_keys=True)
    store = folder / "features" / hashlib.sha256(made.encode()).hexdigest()[:16]
    return extract(subject, stimuli, store=store, **options)
