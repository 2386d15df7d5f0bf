"""Pooled hidden states with everything needed to read them: what `extract` returns and every measurement takes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

METADATA_KEY = "bridgework"  # the only one: safetensors files with several metadata keys are not byte-deterministic

ALLOWED = {
    "modality": ("image", "text"),
    "task": ("understanding", "generation"),
    "pass_": ("separate", "joint"),
    "pooling": ("mean",),
}


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """The pooled hidden states of one modality of one subject.

    Attributes:
        values: float32, (layer, sample, dim), or (timestep, layer, sample, dim) after a timestep sweep.
        layers: a name per layer in depth order, "embeddings", "0", "1", ...
        depths: a relative depth per layer, 0 = embeddings, 1 = last block.
        modality: "image" or "text".
        subject: the name of what was probed.
        task: "understanding" or "generation".
        pass_: "separate" (each modality without the other) or "joint".
        pooling: "mean", over the modality's own tokens.
        timesteps: the timesteps of the sweep, or the one selected by `at`; () for subjects without timesteps.
        samples: the id of each stimulus, in order.

    Raises:
        ValueError: a shape, a count or a word that does not fit, at construction.
    """

    values: torch.Tensor = field(repr=False)
    layers: tuple[str, ...]
    depths: tuple[float, ...]
    modality: str
    subject: str
    task: str
    pass_: str
    pooling: str
    timesteps: tuple[float, ...]
    samples: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("layers", "depths", "timesteps", "samples"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        what = f"the {self.modality} features of {self.subject!r}"
        if not isinstance(self.values, torch.Tensor) or self.values.dtype != torch.float32:
            raise ValueError(f"{what}: values must be a float32 tensor, got {_kind(self.values)}")
        if self.values.ndim not in (3, 4):
            raise ValueError(
                f"{what}: values must be (layer, sample, dim) or (timestep, layer, sample, dim), "
                f"got shape {tuple(self.values.shape)}"
            )
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{what}: unknown {name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}"
                )
        shape = self.values.shape
        counts = {"layers": shape[-3], "depths": shape[-3], "samples": shape[-2]}
        if self.values.ndim == 4:
            counts["timesteps"] = shape[0]
        for name, count in counts.items():
            if len(getattr(self, name)) != count:
                raise ValueError(f"{what}: {len(getattr(self, name))} {name} for {count} in values {tuple(shape)}")
        if self.values.ndim == 3 and len(self.timesteps) > 1:
            raise ValueError(f"{what}: {len(self.timesteps)} timesteps, but values have no timestep axis")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"{what}: a layer name is given twice: {', '.join(self.layers)}")

    def at(self, timestep: float) -> LayerFeatures:
        """The features at one timestep of the sweep: values (layer, sample, dim), timesteps (timestep,).

        Raises:
            ValueError: a timestep that was not swept.
        """
        for index, known in enumerate(self.timesteps):
            if abs(known - timestep) < 1e-6:
                values = self.values[index] if self.values.ndim == 4 else self.values
                return replace(self, values=values, timesteps=(known,))
        swept = ", ".join(f"{t:g}" for t in self.timesteps) or "none"
        raise ValueError(
            f"{self.subject!r} has no {self.modality} features at timestep {timestep:g}: swept are {swept}; "
            "extract again with it"
        )


@dataclass(frozen=True, eq=False)
class Features(Mapping[str, LayerFeatures]):
    """The features of one subject, by modality: `seen["image"]`, `seen["text"]`.

    Attributes:
        modalities: LayerFeatures by modality.
        provenance: plain JSON about how they were made (stimuli, digest, batch size, ...).
    """

    modalities: dict[str, LayerFeatures]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part in self.modalities.items():
            if part.modality != name:
                raise ValueError(f"features under {name!r} say that their modality is {part.modality!r}")

    def __getitem__(self, modality: str) -> LayerFeatures:
        if modality not in self.modalities:
            raise KeyError(f"no {modality!r} features: there are {', '.join(self.modalities) or 'none'}")
        return self.modalities[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; equal features give equal bytes."""
        described = {
            name: {f.name: getattr(part, f.name) for f in fields(part) if f.name != "values"}
            for name, part in self.modalities.items()
        }
        metadata = {METADATA_KEY: json.dumps({"features": described, "provenance": self.provenance}, sort_keys=True)}
        tensors = {name: part.values.detach().cpu().contiguous().clone() for name, part in self.modalities.items()}
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Features:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, corrupted or not a features file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no features file {path}: extract the features first")
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {})[METADATA_KEY])
                parts = {name: LayerFeatures(file.get_tensor(name), **told["features"][name]) for name in file.keys()}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole features file ({error}): delete it and extract again") from None
        return cls(parts, told["provenance"])


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: readers see the old file or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
