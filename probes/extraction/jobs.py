"""An extraction as work that can be dealt out: checked, cut into batches and shards, each made by its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..features.features import Features
from ..features.layer_features import DTYPES
from ..features.lazy_values import features_of
from ..features.shards import FORMAT, Shard, shapes_of
from ..features.store import existing_shards, index_of, write_numbered_shard
from ..hooks.capturing import EMBEDDINGS
from ..hooks.model_state import dispatched
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject, prepared
from .options import PRECISIONS, _named_layers, _told, check_pooling, check_task
from .passes import BatchSize, PassRunner, concatenate_batches
from .pooling import pooling_of
from .processes import local_device
from .provenance import made_of
from .token_selection import Chosen

BATCHES = 8  # in a shard; 1 where all tokens are kept


def shard_count(samples: int, batch_size: int, pooling: str) -> int:
    """How many shards an extraction has."""
    return -(-samples // (batch_size * batches_each(pooling)))


def batches_each(pooling: str) -> int:
    """Batches in a shard."""
    return 1 if pooling == "none" else BATCHES


@dataclass(frozen=True)
class ExtractionJob:
    """An extraction cut into shards, which any process can make by number, in any order."""

    passes: PassRunner
    stimuli: Stimuli
    batches: tuple[tuple[int, ...], ...]
    device: str
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return -(-len(self.batches) // batches_each(self.passes.pooling))

    def features(self) -> Features:
        """All of it, in memory."""
        with prepared(self.passes.subject, self.device):
            shards = list(self.shards(range(len(self))))
        told = [shard.metadata | {"shapes": shapes_of(shard.tensors)} for shard in shards]
        index = index_of(told, [self.passes.subject.name] * len(told))
        features = Features(*features_of(index, [shard.tensors for shard in shards]))
        for part in features.values():  # one modality after the other, and then the shards can go
            part.load()
        return features

    def write(self, folder: Path, numbers: Iterable[int], show: bool = True) -> None:
        """Write those of the shards that are not there yet."""
        numbers = list(numbers)
        there = existing_shards(folder, self.provenance, numbers)
        missing = [number for number in numbers if number not in there]
        if missing:
            with prepared(self.passes.subject, self.device):
                shards = self.shards(missing, show)
                for number in missing:
                    write_numbered_shard(
                        folder, number, len(self), next(shards)
                    )  # in no variable: one shard in memory, not two

    def shards(self, numbers: Iterable[int], show: bool = True) -> Iterator[Shard]:
        """Make these shards, one at a time; the subject must be `prepared`."""
        dealt = [self._batches(number) for number in numbers]
        memory = BatchSize(max(len(batch) for batches in dealt for batch in batches))
        total = sum(len(batches) for batches in dealt)
        with tqdm(total=total, desc=f"extract {self.passes.subject.name}", leave=False, disable=not show) as bar:
            for batches in dealt:
                pieces, halved = [], {}
                for number, batch in enumerate(batches):
                    made, sizes = memory.run(self.passes, [self.stimuli[place] for place in batch])
                    pieces += made
                    if len(sizes) > 1:
                        halved[str(number)] = sizes
                    bar.update()
                pieces = [concatenate_batches(pieces)]
                yield self._shard(pieces.pop(), [place for batch in batches for place in batch], halved)

    def _batches(self, number: int) -> tuple[tuple[int, ...], ...]:
        each = batches_each(self.passes.pooling)
        return self.batches[number * each : (number + 1) * each]

    def _shard(self, tensors: dict[str, Tensor], places: list[int], halved: dict[str, list[int]]) -> Shard:
        passes = self.passes
        numbers = {name: 0 if name == EMBEDDINGS else int(name) + 1 for name in passes.layers}
        parts = {}
        for modality in passes.subject.modalities:
            names = [name for name in passes.layers if f"{modality}/{name}" in tensors]
            label = pooling_of(modality, passes.pooling)
            label += " + special" * passes.special + " + chosen" * (modality in passes.tokens)
            parts[modality] = {
                "layers": names,
                "depths": [numbers[name] / len(passes.subject.blocks) for name in names],
                "subject": passes.subject.name,
                "task": passes.task,
                "pass_": "joint" if len(passes.groups) < len(passes.subject.modalities) else "separate",
                "pooling": label,
                "timesteps": [time for time in passes.times if time is not None],
                "cleaned": "clamped" if passes.cleaned else None,
            }
        told = {
            "format": FORMAT,
            "made": self.provenance,
            "parts": parts,
            "places": places,
            "ids": [self.stimuli.ids[place] for place in places],
            "notes": {"halved": halved} if halved else {},
        }
        return Shard(tensors, told)


def prepare_job(
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
) -> ExtractionJob:
    """Check what is asked of `extract`, all of it, and cut it into shards."""
    task = check_task(subject, task, timesteps, joint)
    check_pooling(pooling)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}: expected torch.float32, float16 or bfloat16")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: expected {', '.join(PRECISIONS)}, or None for the model's own")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}: expected a whole number of at least 1")
    if unknown := [m for m in tokens or {} if m not in subject.modalities]:
        raise ValueError(f"tokens of {unknown[0]!r} are chosen, but {subject.name} has {', '.join(subject.modalities)}")
    if special and pooling.startswith("grid:"):
        raise ValueError("special tokens have no place on a patch grid: leave special or the grid out")
    if dispatched(subject.model) and device != "auto":
        raise ValueError(f"accelerate has laid out {subject.name} over devices: leave device at 'auto'")
    words = "text" in subject.modalities
    lengths = [len(text) for text in stimuli.texts] if words else [0] * len(stimuli)
    order = sorted(range(len(stimuli)), key=lambda place: (lengths[place], place))
    batches = tuple(tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size))
    passes = PassRunner(
        subject=subject,
        task=task,
        layers=_named_layers(subject, layers),
        groups=(tuple(subject.modalities),) if joint else tuple((m,) for m in subject.modalities),
        times=tuple(float(time) for time in timesteps) or (None,),
        pooling=pooling,
        tokens=dict(tokens or {}),
        special=special,
        cleaned=cleaned,
        dtype=dtype,
        precision=precision,
    )
    made = made_of(
        subject,
        stimuli,
        {
            "task": task,
            "timesteps": [float(time) for time in timesteps],
            "noise": "a function of each stimulus's id" if timesteps else None,
            "pass": "joint" if joint else "separate",
            "layers": list(passes.layers),
            "pooling": pooling,
            "tokens": {modality: _told(chosen) for modality, chosen in passes.tokens.items()},
            "special": special,
            "cleaned": cleaned,
            "dtype": str(dtype).removeprefix("torch."),
            "precision": precision,
            "batch_size": batch_size,
            "order": "by length of text" if words else "as given",
            "batches_per_shard": batches_each(pooling),
        },
    )
    return ExtractionJob(passes, stimuli, batches, local_device() if device == "auto" else device, made)
