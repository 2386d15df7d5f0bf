"""Turn stimuli into features: show a subject each stimulus, read every layer with hooks, pool inside the hook."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ..arguments import check_names, file_name
from ..extraction_options import ExtractionOptions
from ..features.features import Features
from ..features.store import is_complete, read_ending, write_index
from ..folder_locks import writing
from ..hooks.parallel_models import ranks_of
from ..stimuli.stimulus_set import Stimuli
from ..subjects.sink_tokens import NORMS
from ..subjects.subject import Subject, modules_of
from ..workers.processes import Processes, check_alike
from .jobs import prepare_job, warn_of_cuts
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
    sinks: bool = False,
    cleaned: bool = False,
    dtype: torch.dtype | str = "float32",
    precision: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    check: bool = True,
    calls: int | str | None = None,
    generate: int | Mapping[str, Any] | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Features:
    """Return the pooled hidden states of every layer, for each modality that the subject has.

    By default each modality is shown in a separate pass, in which the other modality is absent: a joint pass mixes the
    tokens of the two, and this mixing alone draws a rising curve, with random weights and unrelated captions as well.

    Parameters
    ----------
    subject : Subject
        The model to probe, such as an expert that `open_expert` returns.
    stimuli : Stimuli
        Images, texts or pairs of both.
    task : str, optional
        "understanding" or "generation". It may be left out for a subject that has one task.
    timesteps : sequence of float, optional
        The noise levels of the generation task, 0 = clean, 1 = noise. With one timestep, values are
        (layer, sample, dim); with several, (timestep, layer, sample, dim). The noise is a function of each stimulus's
        id. Timesteps belong to the modality that is denoised: the image, or what the subject says
        (`subject.denoised_modalities`). The other modality alone is shown with pure noise: its pass runs at timestep 1,
        once, and its values are the same at all timesteps.
    joint : bool, optional
        Whether one pass shows both modalities. Show it only beside the same pass over `mismatched(stimuli)`.
    layers : sequence of str, optional
        The names of the layers to read, "embeddings", "0", "1", ..., or paths in the model; None for all layers. A pass
        ends behind the deepest of them. Sites can be named too: "7.attention", "7.middle", "7.mlp", "connector",
        "final_norm" or the path of any module (docs/features.md).
    pooling : str, optional
        "mean", "last", "first", "none" (all tokens) or a patch grid, "grid:4", of the image tokens; the text's tokens
        are averaged beside a grid. Sinks, padding, special and template tokens are left out.
    tokens : mapping of str to slice, sequence of int or Tensor, optional
        For a modality, some of its tokens: a slice, positions or a bool mask over the modality's own tokens in reading
        order. Where a subject cannot say which tokens are a modality's, over all tokens of a sample.
    special : bool, optional
        Whether a modality's special tokens (first-token sinks, class tokens) are pooled as well.
    sinks : bool, optional
        Whether text tokens are pooled that are attention sinks: whose norm is over four times the typical norm of the
        layer and of the sample. By default they are left out of means, with a warning that names texts and layers
        (probes/subjects/sink_tokens.py). Where special tokens are pooled, sinks are too.
    cleaned : bool, optional
        Whether cleaned features are kept beside the raw ones, as `features["image"].cleaned` (clamped by
        `pooling.pool`, then z-scored).
    dtype : str or torch.dtype, optional
        The format of the values that are kept: float32, float16 or bfloat16. Pooling is always done in float32.
    precision : str, optional
        "bf16" or "fp16" runs the model under autocast; None keeps the model's own precision.
    device : str, optional
        "auto" is the GPU where there is one. The model is left on the device. A model that accelerate has dispatched
        (device_map, CPU offload) stays as it is.
    batch_size : int, optional
        How many stimuli are shown at once. It is halved, with a warning, where memory does not suffice.
    check : bool, optional
        Whether one stimulus is shown again behind the last batch, alone and in a whole pass, and compared with what was
        kept (probes/extraction/checking.py); of a store that is used again, or resumes, a stimulus that it holds.
        False is noted in the provenance.
    calls : int or "all", optional
        For models that run blocks several times in a pass (ALBERT, looped depth): how often. Then each run is a layer,
        "4@1", "4@2", ... in the order of the pass; "4@2" in `layers` names one. All stimuli must take as many.
    generate : int or mapping, optional
        Let a language model continue each stimulus by up to so many tokens, and pool the tokens that it wrote, but not
        the one that ended it. A mapping holds keywords of the model's `generate`. Decoding is greedy. The states are
        those of one pass over the stimulus and what was written.
    store : path, optional
        A folder to write, shard by shard (probes/features/store.py). Then no more than one shard's features are in
        memory, and an extraction that was stopped resumes there. Under torchrun all ranks must call `extract`, and they
        share the shards; ranks that hold parts of one model make each shard together.

    Returns
    -------
    Features
        `LayerFeatures` by modality, such as "image" and "text"; with `store`, values are loaded from the folder when
        they are needed.

    Raises
    ------
    ValueError
        The subject does not have the task, timestep, modality, layer or token; or the folder holds features of
        something else; or ranks have different models, or parts of one that cannot be probed.
    RuntimeError
        A layer runs more than once in a pass, another rank failed, or another process writes the store; or a stimulus
        that is shown again alone has other states than those kept: the message names layer, stimulus, size and cause.
    FloatingPointError
        Hidden states are not finite; the message names layer and stimulus.
    MemoryError
        One stimulus alone does not fit into memory.
    OSError
        The store cannot be written.

    See Also
    --------
    extract_cached : Extracts into a store that is found again by what the features are made of.
    extract_on_ray : Extracts the same shards with the workers of a Ray cluster.

    Examples
    --------
    >>> stimuli = scene_stimuli("evidence", 16)
    >>> features = extract(open_expert("scenes-dit"), stimuli, timesteps=(0.2, 0.5, 0.8), store="runs/dit")
    >>> features["image"].values.shape                  # (timestep, layer, sample, dim)
    torch.Size([3, 14, 16, 96])
    """
    options = ExtractionOptions(
        task=task,
        timesteps=timesteps,
        joint=joint,
        layers=layers,
        pooling=pooling,
        tokens=tokens,
        special=special,
        sinks=sinks,
        cleaned=cleaned,
        dtype=dtype,
        precision=precision,
        device=device,
        batch_size=batch_size,
        check=check,
        calls=calls,
        generate=generate,
        store=store,
    )
    return extract_with(subject, stimuli, options)


def extract_with(subject: Subject, stimuli: Stimuli, options: ExtractionOptions) -> Features:
    """Return what `extract` returns, for options in one object.

    Parameters
    ----------
    subject : Subject
        The model to probe.
    stimuli : Stimuli
        What it is shown.
    options : ExtractionOptions
        The options of `extract`.

    Returns
    -------
    Features
        As of `extract`.

    Raises
    ------
    ValueError, RuntimeError, FloatingPointError, MemoryError, OSError
        As `extract` does.
    """
    if options.store is None:
        return prepare_job(subject, stimuli, options).features(fresh=True)
    folder = file_name("store", options.store)
    with Processes(ranks_of(*modules_of(subject).values())) as ranks, ExitStack() as held:
        job = prepare_job(subject, stimuli, options)
        if ranks.leads and ranks.worker == 0:
            held.enter_context(writing(folder, is_complete(folder)))
        check_alike(ranks.share(job.provenance if ranks.leads else None))
        job.write(folder, range(ranks.worker, len(job), ranks.workers), ranks)
        ranks.wait()
        if ranks.leads and ranks.worker == 0:
            write_index(folder, len(job))
            job.warn(read_ending(folder, len(job), NORMS))
        first = ranks.leads and ranks.worker == 0
        ranks.wait()
    features = Features.load(folder)
    if first:
        warn_of_cuts(features)
    return features


def extract_cached(folder: Path, subject: Subject, stimuli: Stimuli, **options: Any) -> Features:
    """Extract into a store that is named by what its features are made of, or load that store if it is complete.

    Parameters
    ----------
    folder : Path
        The stores lie in `folder / "features"`, one for the same weights, stimuli, options and versions.
    subject : Subject
        The model to probe.
    stimuli : Stimuli
        What it is shown.
    **options
        The options of `extract`, without `store`.

    Returns
    -------
    Features
        As of `extract`. A store that was begun and not completed is completed.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError, RuntimeError, FloatingPointError, MemoryError, OSError
        As `extract` does.

    See Also
    --------
    extract : Takes the name of the store from you, or keeps features in memory alone.
    Features.load : Opens a store whose folder is known, without the model.

    Examples
    --------
    >>> extract_cached(Path("runs"), dit, stimuli, timesteps=(0.5,))["image"].timesteps
    (0.5,)
    """
    folder = file_name("folder", folder)
    check_names("option of extract", options, [each.name for each in fields(ExtractionOptions) if each.name != "store"])
    asked = ExtractionOptions(**options)
    provenance = json.dumps(prepare_job(subject, stimuli, asked).provenance, sort_keys=True)
    store = folder / "features" / hashlib.sha256(provenance.encode()).hexdigest()[:16]
    return extract_with(subject, stimuli, replace(asked, store=store))
