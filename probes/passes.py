"""The passes over one batch: each modality by itself or both, at each timestep, pooled while the model runs."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from .capture import EMBEDDINGS, capture
from .pooling import Chosen, Pooled, Tokens, find_tokens, pool, pooling_of
from .provenance import modules_of
from .stimuli import Stimulus
from .subjects import Shown, Subject

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Passes:
    """What is asked of a subject, the same for every batch.

    Attributes:
        layers: the names of the layers asked for, in depth order, and their paths in the model.
        groups: the modalities of each pass.
        times: the timesteps, or (None,).
        Others: as `extract`.
    """

    subject: Subject
    task: str
    layers: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]
    times: tuple[float | None, ...]
    pooling: str
    tokens: Mapping[str, Chosen]
    special: bool
    cleaned: bool
    dtype: torch.dtype
    precision: str | None

    def run(self, batch: Sequence[Stimulus]) -> dict[str, Tensor]:
        """The tensors of a shard for these stimuli: MODALITY/LAYER (timestep, sample, ...), and so on (shards.Shard).

        Raises:
            ValueError: states that the tokens do not fit, naming layer and shapes.
            FloatingPointError: values that are not finite, naming layer and stimulus.
        """
        found: dict[str, list[Tensor]] = {}
        special = False
        for modalities in self.groups:
            for index, time in enumerate(self.times):
                if index and "image" not in modalities:  # text alone is shown with pure noise, whatever the timestep
                    for name, tensors in found.items():
                        if name.split("/")[0] in modalities:
                            tensors.append(tensors[0])
                    continue
                shown = self.subject.show(batch, modalities, self.task, time)
                special |= bool(shown.special)
                for (modality, layer), pooled in self._once(batch, modalities, shown).items():
                    for suffix, tensor in zip(("", "/clamped", "/counts"), pooled, strict=True):
                        if tensor is not None:
                            found.setdefault(f"{modality}/{layer}{suffix}", []).append(tensor)
        if self.special and not special:
            raise ValueError(f"{self.subject.name} names no special tokens: leave special out, it changes nothing")
        return {name: torch.stack(tensors) for name, tensors in found.items()}

    def _once(
        self, batch: Sequence[Stimulus], modalities: tuple[str, ...], shown: Shown
    ) -> dict[tuple[str, str], Pooled]:
        subject = self.subject
        device = device_of(subject.model)
        tokens = {m: self._tokens(shown, m, len(batch), device) for m in modalities}
        names = {path: name for name, path in self.layers.items()}
        found: dict[tuple[str, str], Pooled] = {}

        def keep(path: str, stream: str | None, state: Tensor) -> None:
            for modality in modalities if path in names else ():
                if stream == shown.streams.get(modality):
                    try:
                        pooled = pool(
                            state,
                            tokens[modality],
                            pooling_of(modality, self.pooling),
                            shown.dim_axis,
                            self.cleaned,
                            modality,
                        )
                    except ValueError as error:
                        raise ValueError(f"layer {path!r} has {error}") from None
                    # Pooled vectors stay where they are until the pass is over: to fetch each would make a GPU wait.
                    found[modality, names[path]] = pooled if self.pooling == "mean" else _fetched(pooled)

        paths = list(self.layers.values())
        if paths[0] == EMBEDDINGS and subject.blocks[0] not in paths:
            paths.insert(1, subject.blocks[0])  # they are read where they enter the first block
        with torch.no_grad(), self._autocast(device), capture(subject.model, paths, keep=keep):
            shown.run()
        if missing := [m for m in modalities if not any(m == modality for modality, _ in found)]:
            raise ValueError(f"no layer of {subject.name} has {missing[0]} states: its streams are named wrongly")
        return {at: self._checked(_fetched(pooled), at[1], batch) for at, pooled in found.items()}

    def _tokens(self, shown: Shown, modality: str, batch: int, device: torch.device) -> Tokens:
        chosen = self.tokens.get(modality)
        if modality not in shown.tokens and chosen is None:
            raise ValueError(
                f"{self.subject.name} does not say which tokens are {modality}: choose them, such as "
                f"tokens={{{modality!r}: slice(1, None)}}"
            )
        special = shown.special.get(modality) if self.special else None
        return find_tokens(modality, shown.tokens.get(modality), batch, special, chosen, device)

    def _autocast(self, device: torch.device) -> Any:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=PRECISIONS[self.precision])

    def _checked(self, pooled: Pooled, layer: str, batch: Sequence[Stimulus]) -> Pooled:
        kept = []
        for values in (pooled.values, pooled.clamped):
            if values is None:
                kept.append(None)
                continue
            finite = torch.isfinite(values).flatten(1).all(1)
            stored = values.to(self.dtype)
            fits = torch.isfinite(stored).flatten(1).all(1)
            if not fits.all():
                what, remedy = "gave NaN or infinity", "try float32 weights"
                if finite.all():
                    what, remedy = f"is too large for {self.dtype}", "store float32 or bfloat16"
                first = batch[int((~fits).nonzero()[0])].id
                path = self.layers[layer]
                raise FloatingPointError(
                    f"layer {path!r} of {self.subject.name} {what}, first for stimulus {first!r}: {remedy}"
                )
            kept.append(stored)
        return Pooled(kept[0], kept[1], pooled.counts)  # type: ignore[arg-type]


@dataclass
class Memory:
    """How many stimuli are shown at once, which becomes less where memory does not suffice."""

    limit: int

    def run(self, passes: Passes, batch: Sequence[Stimulus]) -> tuple[list[dict[str, Tensor]], list[int]]:
        """A batch in pieces of at most `limit`, and their sizes.

        Raises:
            MemoryError: one stimulus alone does not fit.
        """
        pieces: list[dict[str, Tensor]] = []
        sizes: list[int] = []
        while (start := sum(sizes)) < len(batch):
            piece = batch[start : start + self.limit]
            try:
                pieces.append(passes.run(piece))
                sizes.append(len(piece))
                continue
            except (RuntimeError, MemoryError) as error:
                if not _short_of_memory(error):
                    raise
                told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            # Only here, behind the except clause, are the failed pass's tensors no longer held by the error.
            gc.collect()
            clear_device_cache()
            if len(piece) == 1:
                raise MemoryError(
                    f"stimulus {piece[0].id!r} alone does not fit into memory with {passes.subject.name} ({told}): "
                    "open the model in half precision or with device_map, ask for fewer layers, or pool"
                )
            self.limit = (len(piece) + 1) // 2
            warnings.warn(
                f"{len(piece)} stimuli at once do not fit into memory ({told}): going on with {self.limit}",
                stacklevel=2,
            )
        return pieces, sizes


def joined(pieces: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches put one behind the other, with as many tokens as the longest needs."""
    return {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}


def _joined(parts: list[Tensor]) -> Tensor:
    if parts[0].ndim == 4 and len({part.shape[2] for part in parts}) > 1:
        widest = max(part.shape[2] for part in parts)
        parts = [nn.functional.pad(part, (0, 0, 0, widest - part.shape[2])) for part in parts]
    return torch.cat(parts, 1)


@contextmanager
def prepared(subject: Subject, device: str) -> Iterator[None]:
    """The subject in evaluation mode, on a device unless accelerate has dispatched it; its training flags come back."""
    modules = list(modules_of(subject).values())
    flags = [(each, each.training) for module in modules for each in module.modules()]
    try:
        if not dispatched(subject.model):
            subject.model.to(device)
        for module in modules:
            module.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes, also while accelerate keeps its weights elsewhere."""
    places = {p.device for p in model.parameters()} or {torch.device("cpu")}
    if torch.device("meta") in places:
        hooks = [hook for m in model.modules() if (hook := getattr(m, "_hf_hook", None)) is not None]
        places = {torch.device(d) for d in (getattr(hook, "execution_device", None) for hook in hooks) if d is not None}
    return sorted(places, key=str)[0] if places else torch.device("cpu")


def dispatched(model: nn.Module) -> bool:
    """Whether accelerate has laid the model out, over devices or on the CPU between uses."""
    return bool(getattr(model, "hf_device_map", None)) or any(hasattr(m, "_hf_hook") for m in model.modules())


def _fetched(pooled: Pooled) -> Pooled:
    return Pooled(*(None if tensor is None else tensor.cpu() for tensor in pooled))  # type: ignore[arg-type]


def _short_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return should_reduce_batch_size(error) or "can't allocate memory" in text or "not enough memory" in text  # type: ignore[arg-type]
