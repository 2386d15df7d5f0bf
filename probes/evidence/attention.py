"""Measure how much attention one modality's tokens pay to the other's, layer by layer, without rewriting a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..extraction.options import check_shown, check_task
from ..extraction.token_selection import token_positions
from ..hooks.attention_calls import AttentionCall, AttentionVisit, intercepted
from ..similarity.intervals import mean_interval
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import ForwardPass, Subject, prepared
from ..workers.devices import chosen_device
from .attribution import OTHER

STREAMS = {"image": "hidden_states", "text": "encoder_hidden_states"}  # as diffusers' dual-stream blocks take them


def attention_mass(
    subject: Subject,
    stimuli: Stimuli,
    *,
    task: str | None = None,
    timestep: float | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Measure the share of their attention that one modality's tokens pay to another's in a joint pass, by layer.

    The mass of (text, image) is the attention probability that a text token gives to all image tokens together,
    averaged over text tokens, heads and stimuli. It is the cross-modal attention of AIA [1]_. Beside it stands what it
    would be if every token attended equally to all keys that its mask allows: longer modalities get more attention for
    that alone, and in a causal model the first modality can never look at the second.

    Parameters
    ----------
    subject : Subject
        The model that is probed.
    stimuli : Stimuli
        The images and texts, shown one at a time.
    task : str, optional
        "understanding" or "generation". A subject that has one task needs none.
    timestep : float, optional
        The timestep of the generation task.
    device : str
        Where to run. "auto" is the GPU where there is one.

    Returns
    -------
    DataFrame
        One row per layer, query and key: subject, task, timestep, layer, depth, query, key, mass, low, high (95 %,
        Student's t over stimuli), expected, samples. The key "other" is special, template and padding tokens. For one
        query the masses sum to 1.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If no block attends through SDPA, or for what `extract` refuses.
    RuntimeError
        If a block attends twice to all tokens.

    See Also
    --------
    attribute : Measures what tokens do to an output; attention says no more than where a model looks.
    bridgework.models.ablate_links : Breaks bridges of a trained model, where the question is what they carry.

    Notes
    -----
    Probabilities are computed from the queries and keys that reach `scaled_dot_product_attention`, in float32, one
    layer at a time. Blocks that do not attend to all tokens at once (linear attention) have no rows. Which stream comes
    first in the joint attention of a dual-stream block is found from gradients.

    References
    ----------
    .. [1] AIA, arXiv 2511.22663.

    Examples
    --------
    >>> mass = attention_mass(vlm, stimuli)
    >>> mass[(mass["query"] == "text") & (mass["key"] == "image")].set_index("depth")[["mass", "expected"]].plot()
    """
    check_shown(subject, stimuli)
    task = check_task(subject, task, () if timestep is None else (timestep,))
    device = chosen_device(device)
    keys = (*subject.modalities, OTHER)
    found: list[tuple[int, str, str, float, float]] = []
    first: dict[str, str] = {}  # of each dual-stream block, the stream whose tokens come first
    with prepared(subject, device):
        for stimulus in tqdm(stimuli, desc=f"attention {subject.name}", leave=False):
            shown = subject.show([stimulus], subject.modalities, task, timestep)
            masses: dict[str, tuple[Tensor, Tensor]] = {}
            watched = {path: _watch(path, shown, keys, masses, first) for path in subject.blocks}
            with torch.no_grad(), intercepted(subject.model, watched):
                shown.run()
            for path, (mass, uniform) in masses.items():
                number = subject.blocks.index(path)
                found += [
                    (number, query, key, mass[i, j].item(), uniform[i, j].item())
                    for i, query in enumerate(subject.modalities)
                    for j, key in enumerate(keys)
                ]
    if not found:
        raise ValueError(
            f"no block of {subject.name} attends to all of its tokens through SDPA: open the model with "
            "attn_implementation='sdpa'; where text is read by cross-attention, there is no joint attention"
        )
    rows = []
    table = pd.DataFrame(found, columns=["block", "query", "key", "mass", "expected"])
    for (number, query, key), samples in table.groupby(["block", "query", "key"], sort=False):
        mean, low, high = map(float, mean_interval(samples["mass"].to_numpy()))
        row = {"layer": str(number), "depth": (number + 1) / len(subject.blocks), "query": query, "key": key}
        rows.append(row | {"mass": mean, "low": low, "high": high, "expected": samples["expected"].mean()})
    head = {"subject": subject.name, "task": task, "timestep": timestep}
    return pd.DataFrame([head | row | {"samples": len(stimuli)} for row in rows])


def probabilities(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Return the attention probabilities of a call of SDPA, in float32, and which keys are allowed.

    Parameters
    ----------
    call : AttentionCall
        The intercepted call. A mask of numbers is added to the scores.

    Returns
    -------
    Tensor
        The probabilities, (batch, head, query, key).
    Tensor
        Whether each key is allowed, bool, of the same shape.
    """
    query, mask, scale = call.query, call.mask, call.scale
    key = call.key.repeat_interleave(query.shape[1] // call.key.shape[1], 1)  # grouped-query attention
    scores = query.float() @ key.float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
    elif mask is not None:  # added to the scores; a mask is written as the lowest number, or half of it
        allowed = allowed & (mask > torch.finfo(mask.dtype).min / 4)
        scores = scores + mask
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1), allowed


def _watch(
    path: str,
    shown: ForwardPass,
    keys: tuple[str, ...],
    masses: dict[str, tuple[Tensor, Tensor]],
    first: dict[str, str],
) -> Callable[[dict[str, Any]], AttentionVisit]:
    def prepare(inputs: dict[str, Any]) -> AttentionVisit:
        streams = {name: inputs[given] for name, given in STREAMS.items() if isinstance(inputs.get(given), Tensor)}
        several = len(streams) == 2 and any(shown.streams.get(modality) for modality in shown.tokens)
        if several and path not in first:  # grad mode is set back as soon as attention is called, or by the caller
            for state in streams.values():
                state.requires_grad_()
            torch.set_grad_enabled(True)

        def attend(call: AttentionCall) -> Tensor:
            own, tokens = call.own, call.query.shape[2]
            if several:
                lengths = {name: state.shape[-2] for name, state in streams.items()}
                if tokens != sum(lengths.values()) or call.key.shape[2] != tokens:
                    return own  # a second attention, of one stream to itself
                if path not in first:
                    first[path] = _first(call.query, streams)
                order = sorted(streams, key=lambda name: name != first[path])
                own = own.detach()
                call = call._replace(query=call.query.detach(), key=call.key.detach())
            else:
                lengths, order = {"": tokens}, [""]
                if call.key.shape[2] != tokens or not _fits(shown, tokens):
                    return own
            if path in masses:
                raise RuntimeError(f"block {path!r} attends twice to all tokens: its attention mass is not one number")
            labels = torch.cat([_labels(shown, name or None, lengths[name], keys) for name in order])
            masses[path] = _sum(*probabilities(call), labels, len(keys))
            return own

        return attend

    return prepare


def _first(query: Tensor, streams: dict[str, Tensor]) -> str:
    """Return the stream that the first query depends on: before attention, a token depends on itself alone."""
    gradients = torch.autograd.grad(query[:, :, 0].sum(), list(streams.values()), allow_unused=True)
    torch.set_grad_enabled(False)
    for state in streams.values():
        state.requires_grad_(False)
    named = zip(streams, gradients, strict=True)
    return next(name for name, gradient in named if gradient is not None and gradient.any())


def _fits(shown: ForwardPass, tokens: int) -> bool:
    masks = [mask for mask in shown.tokens.values() if mask is not None]
    return all(mask.numel() == tokens if mask.dtype == torch.bool else int(mask.max()) < tokens for mask in masks)


def _labels(shown: ForwardPass, stream: str | None, count: int, keys: tuple[str, ...]) -> Tensor:
    """Return, for each token of a stream, the number of its modality among `keys`."""
    labels = torch.full((count,), keys.index(OTHER))
    for modality, tokens in shown.tokens.items():
        if shown.streams.get(modality) == stream:
            labels[token_positions(tokens, count)] = keys.index(modality)
    return labels


def _sum(chances: Tensor, allowed: Tensor, labels: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Average mass and uniform mass (query group, key group) over one sample's heads and tokens."""
    if len(chances) != 1:
        raise RuntimeError(f"attention over {len(chances)} rows for one stimulus: expected one")
    member = torch.nn.functional.one_hot(labels, groups).to(chances)  # (token, group)
    uniform = allowed / allowed.sum(-1, keepdim=True)
    sums = []
    for each in (chances, uniform.to(chances)):
        by_key = (each[0].mean(0) @ member).nan_to_num()  # (query, group); a padding query may see nothing
        sums.append((member.T @ by_key / member.sum(0).clamp(min=1)[:, None]).cpu())
    return sums[0], sums[1]
