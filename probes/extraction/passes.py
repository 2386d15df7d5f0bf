"""Run the passes over one batch: each modality alone or both together, at each timestep, pooled in the hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..extraction_options import PRECISIONS, ExtractionOptions
from ..hooks.capturing import EMBEDDINGS, LayerRanAgain, capture
from ..hooks.model_memory import forgetting
from ..hooks.model_state import device_of
from ..reading.generated_tokens import generation_settings, written_tokens
from ..reading.layer_names import Turns, check_turns, layer_depth, layer_paths, once_each
from ..stimuli.stimulus_set import Stimulus
from ..subjects.entering_states import merge_residual_streams
from ..subjects.sink_tokens import NORMS, SinkRule
from ..subjects.subject import ForwardPass, Subject
from .left_padding import warning_of_left_padding
from .pooling import Pooled, pool, pooling_of
from .token_selection import Tokens, find_tokens, read_grids

CONNECTOR = "connector"  # the site that only images have
LOGITS = "logits_to_keep"  # the argument by which transformers' language models predict behind some tokens alone


@dataclass(frozen=True)
class PassRunner:
    """What an extraction asks of a subject, the same for every batch.

    Attributes
    ----------
    subject : Subject
        What is probed.
    options : ExtractionOptions
        What is asked of it, as `fitted` returns it.
    denoised : tuple of str
        The modalities that its timesteps belong to (`denoised_modalities`).
    depths : dict of dict of float
        By modality, the relative depth of each layer that the first batch had, in depth order.
    cut : dict of str to int or None
        The stimuli whose caption was cut so far, by id, with the number of tokens that it was cut at, where that is
        known.
    """

    subject: Subject
    options: ExtractionOptions
    denoised: tuple[str, ...] = ("image",)
    depths: dict[str, dict[str, float]] = field(default_factory=dict, compare=False)
    cut: dict[str, int | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def layers(self) -> dict[str, str]:
        """The names of the layers that are read, in depth order, with their paths in the model."""
        layers = layer_paths(self.subject, self.options.layers)
        if self.options.calls is None:
            return layers
        blocks = once_each(self.subject.model, self.subject.blocks)
        return {n: path for n, path in layers.items() if path in blocks or path not in self.subject.blocks}

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The modalities of each pass."""
        modalities = tuple(self.subject.modalities)
        return (modalities,) if self.options.joint else tuple((modality,) for modality in modalities)

    @property
    def times(self) -> tuple[float | None, ...]:
        """The timesteps, or (None,)."""
        return tuple(self.options.timesteps) or (None,)

    def run(self, batch: Sequence[Stimulus], stop: bool = True) -> dict[str, Tensor]:
        """Extract one batch.

        Parameters
        ----------
        batch : sequence of Stimulus
            The stimuli.
        stop : bool
            End each pass behind the deepest layer. Without it, a block that runs again behind that is noticed.

        Returns
        -------
        dict of torch.Tensor
            The tensors of a shard for these stimuli (`shards.Shard`): MODALITY/LAYER, (timestep, sample, ...), and so
            on.

        Raises
        ------
        ValueError
            The tokens do not fit the states (the message names layer and shapes), or a layer has no states of a
            modality.
        RuntimeError
            A layer runs twice in one pass.
        FloatingPointError
            Values are not finite. The message names layer and stimulus.
        """
        found: dict[str, list[Tensor]] = {}
        has_special = False
        for modalities in self.groups:
            for index, time in enumerate(self.times):
                given_alone = not set(modalities) & set(self.denoised)
                if given_alone and time is not None:
                    time = 1.0  # what is denoised is pure noise beside it, whatever the timestep
                if given_alone and index:
                    for name, tensors in found.items():
                        if name.split("/")[0] in modalities:
                            tensors.append(tensors[0])
                    continue
                with forgetting(self.subject.model), warning_of_left_padding(self.subject.model, self.subject.name):
                    shown = self.subject.show(batch, modalities, str(self.options.task), time)
                    if self.options.generate is not None:
                        shown = self._written(batch, shown)
                    has_special |= bool(shown.special)
                    self.cut.update((batch[place].id, shown.limit) for place in shown.cut)
                    once = self._once(batch, modalities, shown, stop)
                for (modality, layer), pooled in once.items():
                    for suffix, tensor in zip(("", "/clamped", "/counts", NORMS), pooled, strict=True):
                        if tensor is not None:
                            found.setdefault(f"{modality}/{layer}{suffix}", []).append(tensor)
        if self.options.special and not has_special:
            raise ValueError(f"{self.subject.name} names no special tokens: leave special out, it changes nothing")
        return {name: torch.stack(tensors) for name, tensors in found.items()}

    def _written(self, batch: Sequence[Stimulus], shown: ForwardPass) -> ForwardPass:
        """Return a pass over the tokens of a pass and those that the model writes behind them."""
        model = self.subject.model
        settings = generation_settings(model, self.options.generate or 0)
        with torch.no_grad(), self._autocast(device_of(model)):
            return written_tokens(model, self.subject.blocks, shown, settings, [stimulus.id for stimulus in batch])

    def _once(
        self, batch: Sequence[Stimulus], modalities: tuple[str, ...], shown: ForwardPass, stop: bool
    ) -> dict[tuple[str, str], Pooled]:
        """Run one forward pass and return what is kept of it, by modality and layer."""
        subject = self.subject
        device = device_of(subject.model)
        tokens = {m: self._tokens(shown, m, len(batch), device) for m in modalities}
        layers = self._layers_of(modalities)
        sites = [path for path in dict.fromkeys(layers.values()) if path != EMBEDDINGS and path not in subject.blocks]
        turns = Turns(subject.blocks, {layers[n]: layer_depth(subject, n) * len(subject.blocks) % 1 for n in layers})
        found: dict[tuple[str, str, int], Pooled] = {}  # by modality, path and turn
        streams: dict[str, list[str | None]] = {}  # the streams of each layer

        def keep(path: str, stream: str | None, state: Tensor) -> None:
            streams.setdefault(path, []).append(stream)
            turn = turns.count(path, stream)
            for modality in modalities if path in layers.values() else ():
                if stream == shown.streams.get(modality) or (path in sites and stream is None):
                    try:
                        site = path in sites
                        pooled = pool(
                            _with_samples(state, tokens[modality])
                            if site
                            else merge_residual_streams(state, shown.residual),
                            tokens[modality],
                            pooling_of(modality, self.options.pooling),
                            shown.dim_axis,
                            self.options.cleaned,
                            modality,
                            self._sinks(modality, path),
                        )
                    except ValueError as error:
                        raise ValueError(f"layer {path!r} has {error}") from None
                    # Pooled vectors stay where they are until the pass is over: to fetch each would make a GPU wait.
                    found[modality, path, turn] = pooled if self.options.pooling == "mean" else _fetched(pooled)

        paths = [path for path in dict.fromkeys(layers.values()) if path not in sites]
        if self.options.calls is not None:  # every run of a block counts for the depth
            paths = [*paths[: paths[:1] == [EMBEDDINGS]], *once_each(subject.model, subject.blocks)]
        elif paths[:1] == [EMBEDDINGS] and subject.blocks[0] not in paths:
            paths.insert(1, subject.blocks[0])  # embeddings are read where they enter the first block
        calls: int | str = 1 if self.options.calls is None else "all"
        reading = capture(subject.model, paths, keep=keep, stop=stop, calls=calls, sites=sites)
        short = nullcontext() if stop or sites else _without_most_logits(subject.model)
        with torch.no_grad(), self._autocast(device), reading as taps, short:
            _run_to_the_end(shown, [*paths, *sites], taps)
        if missing := [m for m in modalities if not any(m == modality for modality, _, _ in found)]:
            raise ValueError(f"no layer of {subject.name} has {missing[0]} states: its streams are named wrongly")
        named: dict[tuple[str, str], Pooled] = {}
        for modality in modalities:
            present = {path for other, path, _ in found if other == modality}
            self._check_layers(modality, shown.streams.get(modality), present, streams)
            runs = turns.kept(subject.name, self._layers_of((modality,)), present)
            for name, (path, turn) in runs.items():
                named[modality, name] = self._checked(_fetched(found[modality, path, turn]), path, batch)
            now = {n: layer_depth(subject, n) if calls == 1 else turns.depth(*run) for n, run in runs.items()}
            before = self.depths.setdefault(modality, now)
            check_turns(subject.name, self.options.calls, turns, before, now, batch[0].id)
        return named

    def _layers_of(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return the layers that a pass over these modalities can have: a connector is the image's."""
        return {n: path for n, path in self.layers.items() if n != CONNECTOR or "image" in modalities}

    def _check_layers(self, modality: str, stream: str | None, found: set[str], streams: Mapping[str, Any]) -> None:
        """Raise ValueError for a layer without the modality, unless its stream has ended there (SD3's last block)."""
        layers = self._layers_of((modality,))
        present = [path in found for path in layers.values()]
        for index, (name, path) in enumerate(layers.items()):
            ended = stream is not None and None not in streams[path] and not any(present[index:])
            if not (present[index] or ended):
                others = [other for other, has in zip(layers, present, strict=True) if has and other != name]
                names = ", ".join("one without a name" if own is None else repr(own) for own in streams[path])
                raise ValueError(
                    f"layer {path!r} of {self.subject.name} has no {modality} states, others have: its streams are "
                    f"{names}, {modality} is read from {stream or 'one without a name'}. Leave it out, as "
                    f"layers={others}"
                )

    def _tokens(self, shown: ForwardPass, modality: str, batch: int, device: torch.device) -> Tokens:
        chosen = (self.options.tokens or {}).get(modality)
        if modality not in shown.tokens and chosen is None:
            raise ValueError(
                f"{self.subject.name} does not say which tokens are {modality}"
                f"{f' ({why})' if (why := shown.missing.get(modality)) else ''}: leave {modality!r} out of its "
                f"modalities if it has none, or choose the tokens, such as "
                f"tokens={{{modality!r}: slice(1, None)}}"
            )
        special = shown.special.get(modality) if self.options.special else None
        on_grid = pooling_of(modality, self.options.pooling).startswith("grid:") and modality in shown.grids
        grids = read_grids(shown.grids[modality], batch, modality) if on_grid else ()
        return find_tokens(modality, shown.tokens.get(modality), batch, special, chosen, device, grids)

    def _sinks(self, modality: str, path: str) -> SinkRule | None:
        """Return what counts as a sink of a layer: nothing where they are asked for, and nothing in an image."""
        if modality != "text" or self.options.special or self.options.sinks:
            return None
        return SinkRule(getattr(self.subject, "typical_norms", {}).get(path))

    def _autocast(self, device: torch.device) -> Any:
        if self.options.precision is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, PRECISIONS[self.options.precision]))

    def _checked(self, pooled: Pooled, path: str, batch: Sequence[Stimulus]) -> Pooled:
        """Convert what is kept to the dtype, or raise FloatingPointError for what is not finite in it."""
        kept = []
        for values in (pooled.values, pooled.clamped):
            if values is None:
                kept.append(None)
                continue
            stored = values.to(getattr(torch, self.options.dtype))
            fits = torch.isfinite(stored).flatten(1).all(1)
            if not fits.all():
                what, remedy = "gave NaN or infinity", "try float32 weights"
                if torch.isfinite(values).all():
                    what, remedy = f"is too large for torch.{self.options.dtype}", "store float32 or bfloat16"
                first = batch[int((~fits).nonzero()[0])].id
                raise FloatingPointError(
                    f"layer {path!r} of {self.subject.name} {what}, first for stimulus {first!r}: {remedy}"
                )
            kept.append(stored)
        return Pooled(kept[0], kept[1], pooled.counts, pooled.norms)  # type: ignore[arg-type]


def concatenate_batches(pieces: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate batches along the samples, padded to the number of tokens of the longest.

    Parameters
    ----------
    pieces : sequence of dict of torch.Tensor
        The tensors of each batch, as `PassRunner.run` returns them.

    Returns
    -------
    dict of torch.Tensor
        The tensors of all batches.
    """
    return {name: _concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _concatenate(parts: list[Tensor]) -> Tensor:
    if parts[0].ndim == 4 and len({part.shape[2] for part in parts}) > 1:
        widest = max(part.shape[2] for part in parts)
        parts = [nn.functional.pad(part, (0, 0, 0, widest - part.shape[2])) for part in parts]
    return torch.cat(parts, 1)


@contextmanager
def _without_most_logits(model: nn.Module) -> Iterator[None]:
    """Have a language model of transformers predict behind the last token alone: no layer that is read needs more."""
    parameters = inspect.signature(model.forward).parameters if _of_transformers(model) else ()
    if LOGITS not in parameters:
        yield
        return

    def ask(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {LOGITS: 1} | kwargs

    handle = model.register_forward_pre_hook(ask, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _of_transformers(model: nn.Module) -> bool:
    return type(model).__module__.startswith("transformers.") and "forward" not in vars(model)


def _run_to_the_end(shown: ForwardPass, paths: Sequence[str], taps: Mapping[str, Any]) -> None:
    """Run a whole pass, which may fail behind the deepest layer: a decoder lacks inputs, a head lacks memory.

    Such an error is ignored, because a pass that is stopped never comes there. A layer that runs twice is an error.
    """
    try:
        shown.run()
    except LayerRanAgain:
        raise
    except Exception:
        if any(path not in taps for path in paths):  # a layer is there once all of its streams are pooled
            raise


def _with_samples(state: Tensor, tokens: Tokens) -> Tensor:
    """Return a site's state with its sample axis, which an MLP may have merged with the tokens."""
    merged = state.ndim == 2 and tokens.exact is not None and len(state) == tokens.exact[0] * tokens.exact[1]
    return state.unflatten(0, tokens.exact) if merged and tokens.exact else state


def _fetched(pooled: Pooled) -> Pooled:
    return Pooled(*(None if tensor is None else tensor.cpu() for tensor in pooled))  # type: ignore[arg-type]
