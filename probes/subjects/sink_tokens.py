"""Find text tokens that are attention sinks, leave them out of means, and say whose they are.

A language model stores what it has no use for in the state of a token that says little: the first, or a word behind a
token that it was not trained to begin with. Such a state is many times as long as all others, so that one of them
outweighs hundreds of stimuli in a covariance.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..stimuli.stimulus_set import Stimuli

SINK = 4.0  # times the typical norm; words of clean layers stay below 3.1, sinks begin at 5.5
NAMED = 5  # texts that a warning names
NORMS = "/norms"  # how the names of a shard's tensors end that hold norms


class SinkRule(NamedTuple):
    """Say from which norm on a token counts as a sink.

    Attributes
    ----------
    typical : float or None
        The typical norm of words at this layer, where the subject knows it (`typical_norms`).
    leave_out : bool
        Whether sinks are left out of the mean.
    """

    typical: float | None = None
    leave_out: bool = True


def find_sinks(rows: Tensor, ragged: Tensor | None, rule: SinkRule) -> tuple[Tensor | None, Tensor]:
    """Find the sinks among the tokens of each sample, by the sample alone, whatever else is in the batch.

    A sink's norm is more than `SINK` times the typical norm of the layer, and more than `SINK` times the least of its
    sample's tokens, for all may be longer than they were when the typical norm was measured. Where no typical norm is
    known, it is more than 2 * `SINK` times the median of its sample's tokens (the lower one of an even number). So a
    sample of one token has none, and never is all of a sample left out.

    Parameters
    ----------
    rows : torch.Tensor
        (batch, token, dim).
    ragged : torch.Tensor or None
        (batch,), the number of tokens of each sample, where the rest is padding.
    rule : SinkRule
        What counts as a sink.

    Returns
    -------
    left_out : torch.Tensor or None
        Mask (batch, token), or None where it is known that no token is left out.
    norms : torch.Tensor
        (batch, 3), of each sample the median norm, the largest norm of what is pooled, and the number of tokens left
        out.
    """
    norms = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32)).float()
    counts = torch.full((len(rows),), rows.shape[1], device=rows.device) if ragged is None else ragged
    padding = torch.arange(rows.shape[1], device=rows.device) >= counts[:, None]
    sorted_norms = norms.masked_fill(padding, torch.inf).sort(1).values
    median = sorted_norms.gather(1, (counts[:, None] - 1) // 2)
    reference = 2 * median if rule.typical is None else sorted_norms[:, :1].clamp(min=rule.typical)
    sinks = (norms > SINK * reference) & norms.isfinite() & (reference > 0) & ~padding & rule.leave_out
    largest = norms.masked_fill(padding | sinks, 0).amax(1)
    found = torch.stack([median[:, 0], largest, sinks.sum(1).float()], 1)
    # Asking a GPU would make it wait.
    return None if sinks.device.type == "cpu" and not sinks.any() else sinks, found


def join_norms(
    shards: Iterable[Mapping[str, Tensor]], places: Sequence[int], layers: Sequence[str]
) -> dict[str, Tensor]:
    """Join the norms of all shards.

    Parameters
    ----------
    shards : iterable of mapping of str to torch.Tensor
        The tensors of each shard, or those of them that are norms.
    places : sequence of int
        The place of each sample of the shards, in their order, among all samples.
    layers : sequence of str
        The names of the layers, in depth order.

    Returns
    -------
    dict of torch.Tensor
        By "MODALITY/LAYER": (sample, 3), as `find_sinks` returns them, the largest over the timesteps.
    """
    found: dict[str, list[Tensor]] = {}
    for shard in shards:
        for name, norms in shard.items():
            if name.endswith(NORMS):
                found.setdefault(name.removesuffix(NORMS), []).append(norms.float().amax(0))
    order = torch.tensor(places).argsort()
    ranks = {layer: number for number, layer in enumerate(layers)}

    def rank(name: str) -> int:
        layer = name.split("/", 1)[1]
        return ranks.get(layer, ranks.get(layer.rpartition("@")[0], len(ranks)))  # "4@2" is a turn of block 4

    return {name: torch.cat(found[name])[order] for name in sorted(found, key=rank)}


def warn_of_sinks(
    name: str, stimuli: Stimuli, norms: Mapping[str, Tensor], typical: Mapping[str, float], pooling: str = "mean"
) -> None:
    """Warn once of the texts that hold sinks: those that were left out, and those that could not be.

    Parameters
    ----------
    name : str
        The name of the subject.
    stimuli : Stimuli
        What it was shown.
    norms : mapping of str to torch.Tensor
        As `join_norms` returns them, in depth order.
    typical : mapping of str to float
        The typical norm of words by the name of the layer, where the subject knows it.
    pooling : str
        The pooling of the text.
    """
    left_out, kept = {}, {}
    for part, values in norms.items():
        layer = part.split("/", 1)[1]
        median = typical.get(layer) or float(values[:, 0].median())
        for place in values[:, 2].nonzero()[:, 0].tolist():
            left_out.setdefault(place, []).append((layer, 0.0))
        for place in (values[:, 1] > SINK * median).nonzero()[:, 0].tolist() if median else ():
            kept.setdefault(place, []).append((layer, float(values[place, 1]) / median))
    if left_out:
        warnings.warn(
            f"{_holders(left_out, stimuli)} hold words that {name} makes sinks, with norms of over {SINK:g} times the "
            f"typical, at {_layers(norms, left_out)}: the mean leaves these words out there (sinks=True keeps them)",
            stacklevel=3,
        )
    if kept:
        how = "nothing else would be left of these" if pooling == "mean" else f"pooling={pooling!r} keeps them"
        worst = max(kept, key=lambda place: max(ratio for _, ratio in kept[place]))
        layer, ratio = max(kept[worst], key=lambda found: found[1])
        warnings.warn(
            f"{_holders(kept, stimuli)} are pooled with a sink of {name}, at {_layers(norms, kept)}, the largest in "
            f"{stimuli.texts[worst]!r} with {ratio:.0f} times the typical norm at layer {layer}: {how}, and a few such "
            "rows outweigh all others. Put another token in front (open_expert(..., front=...), or in the inputs of an "
            "AnyModel), leave these texts out, or read other layers",
            stacklevel=3,
        )


def _holders(found: Mapping[int, object], stimuli: Stimuli) -> str:
    """Return how many texts are meant, and some of them."""
    texts = ", ".join(repr(stimuli.texts[place]) for place in list(found)[:NAMED])
    return f"{len(found)} of {len(stimuli)} texts ({texts}{', ...' if len(found) > NAMED else ''})"


def _layers(norms: Mapping[str, object], found: Mapping[int, Sequence[tuple[str, float]]]) -> str:
    """Return the layers that are meant, in the order of `norms`, neighbours of them as 2-8."""
    order = list(dict.fromkeys(part.split("/", 1)[1] for part in norms))
    numbers = sorted({order.index(layer) for layers in found.values() for layer, _ in layers})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [order[start] if start == end else f"{order[start]}-{order[end]}" for start, end in runs]
    return f"layer{'s' * (len(numbers) > 1)} {', '.join(parts)}"
