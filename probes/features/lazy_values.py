"""Read the values of features from their shards when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .layer_features import LayerFeatures
from .shards import NAMES, open_shard, read_tensor

DTYPES = {name: dtype for dtype, name in NAMES.items()}


def features_of(
    index: dict[str, Any], shards: Sequence[Path | dict[str, Tensor]]
) -> tuple[dict[str, LayerFeatures], dict[str, Any]]:
    """Build features whose values are read from shards when they are first used.

    Parameters
    ----------
    index : dict
        What the shards hold, as features.json says it (`store.index_of`).
    shards : sequence of pathlib.Path or dict of torch.Tensor
        The shards, as files or in memory.

    Returns
    -------
    modalities : dict of LayerFeatures
        The features of each modality.
    provenance : dict
        How they were made.
    """
    modalities = {}
    places = tuple(torch.tensor(entry["places"]) for entry in index["shards"])
    digests = dict(zip(index["samples"], index.get("digests", ()), strict=False))
    seals = tuple(entry.get("seal") for entry in index["shards"])
    expert = next((entry["notes"]["expert"] for entry in index["shards"] if "expert" in entry["notes"]), {})
    for modality, part in index["parts"].items():
        names, shape = tuple(part["layers"]), tuple(part["shape"])
        sweep = shape[0] if len(part["timesteps"]) > 1 else 0
        stored: Any = LazyValues(tuple(shards), seals, places, modality, names, shape, DTYPES[part["dtype"]], sweep)
        labels = {name: part[name] for name in ("layers", "depths", "subject", "task", "pass_", "timesteps", "widths")}
        labels |= {"modality": modality, "samples": index["samples"], "digests": digests}
        labels |= {"groups": index.get("groups", ()), "expert": expert}
        cleaned = None
        if part["cleaned"]:
            reader: Any = replace(stored, suffix="/clamped", standardise=part["cleaned"] == "clamped")
            cleaned = LayerFeatures(values=reader, pooling=f"{part['pooling']} + cleaned", **labels)
        modalities[modality] = LayerFeatures(values=stored, pooling=part["pooling"], cleaned=cleaned, **labels)
    said = [{name: note for name, note in entry["notes"].items() if name != "expert"} for entry in index["shards"]]
    notes = {str(number): note for number, note in enumerate(said) if note}
    truncated = {name: limit for note in notes.values() for name, limit in note.get("truncated", {}).items()}
    found = {name: value for name, value in (("notes", notes), ("truncated", truncated)) if value}
    return modalities, index["made"] | found


@dataclass(frozen=True)
class LazyValues:
    """The values of one modality, in shards (a `layer_features.Reader`).

    Attributes
    ----------
    shards : tuple of pathlib.Path or dict of torch.Tensor
        The shards.
    seals : tuple of str or None
        What the index says of each shard (probes/features/checksums.py); None where it says nothing.
    places : tuple of torch.Tensor
        The places of each shard's samples among all samples.
    modality : str
        "image" or "text".
    layers : tuple of str
        The names of the layers.
    shape : tuple of int
        The shape of the values once they are read.
    dtype : torch.dtype
        Their dtype.
    sweep : int
        The number of timesteps, 0 where the values have no timestep axis.
    time : int
        The index of the timestep that is read, where `sweep` is 0.
    suffix : str
        The ending of the tensors' names: "/clamped" for cleaned values.
    standardise : bool
        Whether values are z-scored after they are read.
    """

    shards: tuple[Path | dict[str, Tensor], ...]
    seals: tuple[str | None, ...]
    places: tuple[Tensor, ...]
    modality: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    sweep: int
    time: int = 0
    suffix: str = ""
    standardise: bool = False

    def at(self, timestep: int) -> LazyValues:
        """Return the values at one timestep, by its index."""
        return replace(self, time=timestep, sweep=0, shape=self.shape[1:])

    def read(self, layers: slice | int) -> Tensor:
        """Read the values of some layers, or of one layer without the layer axis."""
        names = self.layers[layers] if isinstance(layers, slice) else (self.layers[layers],)
        swept = bool(self.sweep)
        values = torch.zeros(self.sweep or 1, len(names), *self.shape[swept + 1 :], dtype=self.dtype)
        times = slice(None) if swept else slice(self.time, self.time + 1)
        for shard, seal, places in zip(self.shards, self.seals, self.places, strict=True):
            with _opened(shard, seal) as read:
                for layer, name in enumerate(names):
                    part = read(f"{self.modality}/{name}{self.suffix}", times)
                    values[:, layer][(slice(None), places, *map(slice, part.shape[2:]))] = part
        if self.standardise:
            counts = self.counts() if self._keeps_tokens() else None
            for layer, name in enumerate(names):
                for one_time in values[:, layer]:
                    _standardise(one_time, None if counts is None else counts[self.layers.index(name)])
        values = values if swept else values[0]
        return values if isinstance(layers, slice) else values.select(int(swept), 0)

    def counts(self) -> Tensor:
        """Read the number of tokens of each sample, (layer, sample)."""
        counts = torch.zeros(len(self.layers), self.shape[bool(self.sweep) + 1], dtype=torch.int64)
        for shard, seal, places in zip(self.shards, self.seals, self.places, strict=True):
            with _opened(shard, seal) as read:
                for layer, name in enumerate(self.layers):
                    counts[layer, places] = read(f"{self.modality}/{name}/counts", slice(0, 1))[0]
        return counts

    def _keeps_tokens(self) -> bool:
        return len(self.shape) - bool(self.sweep) == 4


@contextmanager
def _opened(shard: Path | dict[str, Tensor], seal: str | None) -> Iterator[Callable[[str, slice], Tensor]]:
    """Open a shard, as a function that reads some timesteps of one of its tensors."""
    if isinstance(shard, dict):
        yield lambda name, times: shard[name][times]
        return
    with open_shard(shard) as file:
        yield lambda name, times: read_tensor(file, shard, name, times, seal)


def _standardise(values: Tensor, counts: Tensor | None) -> None:
    """Z-score each dim of (sample, ..., dim) over the samples and their tokens, in place; a constant dim becomes 0."""
    there = slice(None) if counts is None else torch.arange(values.shape[1]) < counts[:, None]
    own = values[there].double()
    flat = own.flatten(0, -2)
    spread = flat.std(0, correction=0)
    values[there] = ((own - flat.mean(0)) / torch.where(spread > 0, spread, 1)).to(values.dtype)
