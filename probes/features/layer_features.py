"""Hold the labelled hidden states of one modality, (layer, sample, dim)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..extraction_options import FORMATS, TASKS
from ..notebook_views import table_view

ALLOWED = {
    "modality": ("image", "text", "audio", "video"),
    "task": TASKS,
    "pass_": ("separate", "joint"),
}
POOLING = re.compile(r"(mean|last|first|none|grid:[1-9]\d*)( \+ (special|sinks|chosen|generated|cleaned))*")
DTYPES = tuple(getattr(torch, name) for name in FORMATS)


class Reader(Protocol):
    """Values that have not been read yet.

    Attributes
    ----------
    shape : tuple of int
        The shape that the values will have.
    dtype : torch.dtype
        Their dtype.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def read(self, layers: slice | int) -> Tensor:
        """Read the values of some layers, or of one layer without the layer axis."""
        ...

    def counts(self) -> Tensor:
        """Read the number of tokens, (layer, sample), with pooling "none"."""
        ...

    def at(self, timestep: int) -> Reader:
        """Return the reader of the values at one timestep, by its index."""
        ...


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """Pooled hidden states of one modality of one subject.

    Attributes
    ----------
    values : torch.Tensor
        (layer, sample, dim), or (timestep, layer, sample, dim) after a timestep sweep; float32, float16 or bfloat16.
        With pooling "grid:N" (..., sample, row, column, dim), which `match_patches` takes. With "none" (..., sample,
        token, dim), zero where a sample has fewer tokens. After `Features.load` they are read at first use, all at
        once; `layer` reads one layer alone.
    layers : tuple of str
        The name of each layer, in depth order: "embeddings", "0", "1", ...
    depths : tuple of float
        The relative depth of each layer, 0 = embeddings, 1 = last block.
    modality : str
        "image", "text", "audio" or "video".
    subject : str
        The name of what was probed.
    task : str
        "understanding" or "generation".
    pass_ : str
        "separate" (each modality without the other) or "joint".
    pooling : str
        "mean", "last", "first", "none" or "grid:N" over the modality's own tokens, with " + special" (sinks, class
        tokens and the like are pooled too), " + chosen" (some of the tokens), " + generated" (the tokens that the
        model wrote) and " + cleaned".
    timesteps : tuple of float
        The timesteps of the sweep, or the one selected by `at`; () for subjects without timesteps.
    samples : tuple of str
        The id of each stimulus, in order.
    digests : mapping of str to str
        What the stimulus of an id shows, as `Stimuli.digests` has it; {} where nobody knows. Features whose ids are
        equal and whose texts and images both differ are not compared.
    groups : tuple of str
        The image that each stimulus is a caption of, as `Stimuli.groups` has it; () where every image has one caption.
        Comparisons take one row an image (`similarity_map`).
    expert : mapping of str to str
        Where the subject was opened from ("opened", a folder or Hub id) and a digest of its weights ("weights"), which
        plans keep; {} where the subject's name says it, or nobody knows.
    widths : tuple of int
        The dims of each layer where they differ. The values of narrower layers are filled up with zeros.
    counts : torch.Tensor or None
        (layer, sample), the number of tokens, with pooling "none".
    cleaned : LayerFeatures or None
        The same features cleaned, where that was asked for. Massive activations are clamped before pooling, then each
        dim is z-scored over the samples (and tokens).

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        A shape, a count or a word does not fit, at construction.

    See Also
    --------
    Features : Holds all modalities of an extraction, and saves and loads them.
    similarity_map : Checks that two of these are of the same stimuli, which it cannot do with bare tensors.
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
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)
    expert: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("layers", "depths", "timesteps", "samples", "widths", "groups"):
            if isinstance(found := getattr(self, name), str | bytes) or not isinstance(found, Iterable):
                raise TypeError(f"{name} is {found!r}: expected a tuple, as of the features that extract returns")
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
        if not isinstance(self.pooling, str) or not POOLING.fullmatch(self.pooling):
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
        if self.groups:
            counts["groups"] = shape[swept + 1]
        for name, count in counts.items():
            if len(getattr(self, name)) != count:
                raise ValueError(
                    f"{what}: {len(getattr(self, name))} {name} for {count} in values {shape}: expected one for each"
                )
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

    def _repr_html_(self) -> str:
        held = self.__dict__["values"] if "values" in self.__dict__ else self.__dict__["_reader"]
        axes = ("timestep",) * self.swept + ("layer", "sample", *axes_of(self.pooling))
        rows = {
            "values": f"({', '.join(axes)}) = {tuple(held.shape)}, {str(held.dtype).removeprefix('torch.')}",
            "layers": f"{self.layers[0]} to {self.layers[-1]}",
            "task": f"{self.task}, {self.pass_} pass",
            "pooling": self.pooling,
            "timesteps": ", ".join(f"{time:g}" for time in self.timesteps) or "none",
            "samples": f"{', '.join(self.samples[:3])}{', ...' if len(self.samples) > 3 else ''}",
            "held": "in memory" if "values" in self.__dict__ else "on disk, read when used",
        }
        return table_view(f"{self.modality} of {self.subject}", rows)

    def load(self) -> None:
        """Read all values into memory, and release the shards."""
        for part in (self, self.cleaned):
            if part is not None and "_reader" in part.__dict__:
                _ = part.values, part.counts
                object.__delattr__(part, "_reader")

    @property
    def swept(self) -> bool:
        """Whether `values` has a timestep axis."""
        held = self.__dict__["values"] if "values" in self.__dict__ else self.__dict__["_reader"]
        return len(held.shape) > 2 + len(axes_of(self.pooling))

    @property
    def origin(self) -> dict[str, Any]:
        """What these are features of, plain JSON: subject, modality, task, pass and timestep (None of a sweep).

        Of an expert that was opened from a folder or the Hub, also where that is and a digest of its weights.
        """
        timestep = self.timesteps[0] if len(self.timesteps) == 1 else None
        described = {"subject": self.subject, "modality": self.modality, "task": self.task, "pass": self.pass_}
        return described | {"timestep": timestep, **self.expert}

    def layer(self, name: str) -> Tensor:
        """Return the values of one layer, and read no other.

        Parameters
        ----------
        name : str
            A name in `layers`.

        Returns
        -------
        torch.Tensor
            (sample, dim) or (timestep, sample, dim), cut to the layer's width.

        Raises
        ------
        ValueError
            The layer is unknown.
        """
        name = str(name)  # blocks are called by their numbers, and 7 means "7"
        if name not in self.layers:
            raise ValueError(f"no layer {name!r} of {self.subject!r}: there are {', '.join(self.layers)}")
        index = self.layers.index(name)
        if "values" in self.__dict__:
            values = self.values[:, index] if self.swept else self.values[index]
        else:
            values = self.__dict__["_reader"].read(index)
        return values[..., : self.widths[index]] if self.widths else values

    def at_layer(self, layer: str | int | float) -> LayerFeatures:
        """Return the features of one layer alone, such as the one that `alignment_curve` compares all layers with.

        Parameters
        ----------
        layer : str, int or float
            A name in `layers`, or "last". A whole number is the name of a block, or counts from the end where it is
            negative. A fraction is a relative depth, 0.0 to 1.0, and takes the layer that is nearest to it.

        Returns
        -------
        LayerFeatures
            Features with that layer alone, values (1, sample, dim), or (timestep, 1, sample, dim) after a sweep. No
            other layer is read.

        Raises
        ------
        ValueError
            There is no such layer, or the depth lies outside 0 to 1.
        TypeError
            It is neither a name nor a number.

        See Also
        --------
        layer : Returns the values of one layer without their labels.

        Examples
        --------
        >>> text = features["text"]
        >>> text.at_layer("5"), text.at_layer(5), text.at_layer("last"), text.at_layer(-1), text.at_layer(0.5)
        """
        name = self._named(checked("layer", layer, str | int | float))
        values = self.layer(name).unsqueeze(int(self.swept))
        index = self.layers.index(name)
        return replace(
            self,
            values=values,
            layers=(name,),
            depths=(self.depths[index],),
            widths=(),
            counts=None if self.counts is None else self.counts[index : index + 1],
            cleaned=self.cleaned.at_layer(name) if self.cleaned else None,
        )

    def _named(self, layer: str | int | float) -> str:
        """Return the name of the layer that `at_layer` is asked for."""
        if isinstance(layer, float | np.floating):
            if not 0 <= layer <= 1:
                raise ValueError(f"a relative depth lies in 0 to 1, got {layer:g}: a layer's number is a whole number")
            return self.layers[int(np.argmin([abs(depth - layer) for depth in self.depths]))]
        if layer == "last" and "last" not in self.layers:
            return self.layers[-1]
        if isinstance(layer, int | np.integer) and -len(self.layers) <= layer < 0:
            return self.layers[layer]
        return str(layer)

    def at(self, timestep: float) -> LayerFeatures:
        """Return the features at one timestep of the sweep.

        Parameters
        ----------
        timestep : float
            One of `timesteps`.

        Returns
        -------
        LayerFeatures
            Features with values (layer, sample, dim) and that timestep alone.

        Raises
        ------
        ValueError
            The timestep was not swept.
        TypeError
            It is no number.
        """
        timestep = checked("timestep", timestep, float)
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
    """Name the axes of values behind the samples.

    Parameters
    ----------
    pooling : str
        A pooling, as of `LayerFeatures`.

    Returns
    -------
    tuple of str
        ("dim",), ("token", "dim") or ("row", "column", "dim").
    """
    kind = pooling.split(" ")[0]
    if kind == "none":
        return ("token", "dim")
    return ("row", "column", "dim") if kind.startswith("grid:") else ("dim",)


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
