"""Hold the labelled hidden states of one modality, (layer, sample, dim)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

ALLOWED = {
    "modality": ("image", "text"),
    "task": ("understanding", "generation"),
    "pass_": ("separate", "joint"),
}
POOLING = re.compile(r"(mean|last|first|none|grid:[1-9]\d*)( \+ (special|chosen|cleaned))*")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Reader(Protocol):
    """Where values are that have not been loaded yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def read(self, layers: slice | int) -> Tensor:
        """The values of some layers, or of one without the layer axis."""
        ...

    def counts(self) -> Tensor:
        """(layer, sample), with pooling "none"."""
        ...

    def at(self, timestep: int) -> Reader:
        """The reader of the values at one timestep, by its place."""
        ...


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """The pooled hidden states of one modality of one subject.

    Attributes:
        values: (layer, sample, dim), or (timestep, layer, sample, dim) after a timestep sweep; float32, float16 or
            bfloat16. With pooling "grid:N" (..., sample, row, column, dim), which `match_patches` takes; with "none"
            (..., sample, token, dim), zero where a sample has fewer tokens. Of features opened from a folder they are
            loaded when asked for, all at once; `layer` loads one.
        layers: a name per layer in depth order, "embeddings", "0", "1", ...
        depths: a relative depth per layer, 0 = embeddings, 1 = last block.
        modality: "image" or "text".
        subject: the name of what was probed.
        task: "understanding" or "generation".
        pass_: "separate" (each modality without the other) or "joint".
        pooling: "mean", "last", "first", "none" or "grid:N" over the modality's own tokens, with " + special" (sinks,
            class tokens and the like as well), " + chosen" (of those tokens, some) and " + cleaned".
        timesteps: the timesteps of the sweep, or the one selected by `at`; () for subjects without timesteps.
        samples: the id of each stimulus, in order.
        widths: the dims of each layer where they differ; the values of the narrower ones are filled up with zeros.
        counts: Tensor (layer, sample), the number of tokens of each, with pooling "none"; else None.
        cleaned: LayerFeatures, the same cleaned, where they were asked for; else None. Massive activations are clamped
            before pooling, then each dim is z-scored over the samples (and tokens).

    Raises:
        ValueError: a shape, a count or a word that does not fit, at construction.
    """

    values: Tensor = field(repr=False)
    layers: tuple[str, ...]
    depths: tuple[float, ...]
    modality: str
    subject: str
    task: str
    pass_: str
    pooling: str
    timesteps: tuple[float, ...]
    samples: tuple[str, ...] = field(repr=False)
    widths: tuple[int, ...] = ()
    counts: Any = field(default_factory=lambda: None, repr=False)  # a plain default would hide __getattr__
    cleaned: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("layers", "depths", "timesteps", "samples", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        given: Any = self.__dict__["values"]
        if not isinstance(given, Tensor) and hasattr(given, "read"):
            object.__setattr__(self, "_reader", self.__dict__.pop("values"))
            if self.pooling.startswith("none") and self.__dict__["counts"] is None:
                del self.__dict__["counts"]
        what = f"the {self.modality} features of {self.subject!r}"
        if getattr(given, "dtype", None) not in DTYPES:
            raise ValueError(f"{what}: values must be a float32, float16 or bfloat16 tensor, got {_kind(given)}")
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{what}: unknown {name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}"
                )
        if not POOLING.fullmatch(self.pooling):
            raise ValueError(f"{what}: unknown pooling {self.pooling!r}: expected mean, last, first, none or grid:N")
        self._check(tuple(given.shape), what)

    def _check(self, shape: tuple[int, ...], what: str) -> None:
        axes = axes_of(self.pooling)
        least = 2 + len(axes)
        if len(shape) not in (least, least + 1):
            plain = ", ".join(("layer", "sample", *axes))
            raise ValueError(f"{what}: values must be ({plain}) or (timestep, {plain}), got shape {shape}")
        swept = len(shape) > least
        counts = {"layers": shape[swept], "depths": shape[swept], "samples": shape[swept + 1]}
        if swept:
            counts["timesteps"] = shape[0]
        if self.widths:
            counts["widths"] = shape[swept]
        for name, count in counts.items():
            if len(getattr(self, name)) != count:
                raise ValueError(f"{what}: {len(getattr(self, name))} {name} for {count} in values {shape}")
        if not swept and len(self.timesteps) > 1:
            raise ValueError(f"{what}: {len(self.timesteps)} timesteps, but values have no timestep axis")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"{what}: a layer name is given twice: {', '.join(self.layers)}")
        if max(self.widths, default=0) > shape[-1]:
            raise ValueError(f"{what}: a layer is {max(self.widths)} wide, but values {shape} are not")

    def __getattr__(self, name: str) -> Any:
        reader = self.__dict__.get("_reader")
        if name not in ("values", "counts") or reader is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, reader.read(slice(None)) if name == "values" else reader.counts())
        return self.__dict__[name]

    def load(self) -> None:
        """Read everything into memory, and let go of where it was."""
        for part in (self, self.cleaned):
            if part is not None and "_reader" in part.__dict__:
                _ = part.values, part.counts
                object.__delattr__(part, "_reader")

    @property
    def swept(self) -> bool:
        """Whether values have a timestep axis."""
        held = self.__dict__["values"] if "values" in self.__dict__ else self.__dict__["_reader"]
        return len(held.shape) > 2 + len(axes_of(self.pooling))

    def layer(self, name: str) -> Tensor:
        """The values of one layer, (sample, dim) or (timestep, sample, dim), cut to its width; loads no other.

        Raises:
            ValueError: an unknown layer.
        """
        if name not in self.layers:
            raise ValueError(f"no layer {name!r} of {self.subject!r}: there are {', '.join(self.layers)}")
        index = self.layers.index(name)
        if "values" in self.__dict__:
            values = self.values[:, index] if self.swept else self.values[index]
        else:
            values = self.__dict__["_reader"].read(index)
        return values[..., : self.widths[index]] if self.widths else values

    def at(self, timestep: float) -> LayerFeatures:
        """The features at one timestep of the sweep: values (layer, sample, dim), timesteps (timestep,).

        Raises:
            ValueError: a timestep that was not swept.
        """
        for index, known in enumerate(self.timesteps):
            if abs(known - timestep) < 1e-6:
                values: Any = self.__dict__.get("values", self.__dict__.get("_reader"))
                if self.swept:
                    values = values[index] if isinstance(values, Tensor) else values.at(index)
                cleaned = self.cleaned.at(known) if self.cleaned else None
                return replace(self, values=values, timesteps=(known,), cleaned=cleaned)
        swept = ", ".join(f"{t:g}" for t in self.timesteps) or "none"
        raise ValueError(
            f"{self.subject!r} has no {self.modality} features at timestep {timestep:g}: swept are {swept}; "
            "extract again with it"
        )


def axes_of(pooling: str) -> tuple[str, ...]:
    """The axes of values behind the samples."""
    kind = pooling.split(" ")[0]
    if kind == "none":
        return ("token", "dim")
    return ("row", "column", "dim") if kind.startswith("grid:") else ("dim",)


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
