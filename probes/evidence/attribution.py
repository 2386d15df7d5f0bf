"""Attribute a task's output to layers and modalities with captum's layer attributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import checked
from ..extraction.options import check_shown, check_task
from ..extraction.token_selection import token_positions
from ..hooks.capturing import EMBEDDINGS, capture
from ..similarity.intervals import mean_interval
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import ForwardPass, Subject, prepared
from ..workers.devices import chosen_device
from .replay import Output, Replay

METHODS = ("conductance", "integrated_gradients", "ablation")
OTHER = "other"
Means = dict[str, dict[str, Tensor]]  # layer, modality -> the mean state (dim,)


def attribute(
    subject: Subject,
    stimuli: Stimuli,
    output: Output,
    *,
    method: str = "conductance",
    task: str | None = None,
    timestep: float | None = None,
    steps: int = 32,
    batch_size: int = 33,
    device: str = "auto",
) -> pd.DataFrame:
    """Attribute the output of a joint pass to the hidden states of every layer, summed over each modality's tokens.

    The baseline of a token is the mean state of its modality's tokens, over all stimuli, at the layer where it is put
    in: "some image" instead of this one. Tokens of neither modality (begin of sequence, padding, template) keep their
    states, and no token is taken out: positions, masks and image placeholders stay as they are.

    - "conductance" (Dhamdhere et al. [1]_; captum's LayerConductance): along the straight path from the baseline's
      embeddings to the real ones, how much of the output's change runs through a layer's states. It is the mean of the
      path walked forward and back, which makes captum's left Riemann sum a trapezoid.
    - "integrated_gradients" (Sundararajan et al. [2]_; LayerIntegratedGradients): the same along the straight path
      between the layer's own two states.
    - "ablation" (LayerFeatureAblation): what the output loses when the states of one modality's tokens at one layer
      are replaced by their mean, and later layers are computed anew.

    The first two are complete: over all tokens of a layer they sum to output(real) - output(baseline), if all that
    reaches the output passes through the layer. The column error says how far they are from it.

    Parameters
    ----------
    subject : Subject
        The model that is probed.
    stimuli : Stimuli
        The images and texts. They are shown one at a time, whatever the subject's layout of tokens is.
    output : callable
        A function (result, stimuli, shown) that returns what the task is judged by, more being better, as a tensor
        (batch,); `result` is what `ForwardPass.run` returns. models/evaluation/objectives.py has the log-probability of
        an answer and minus the denoising error.
    method : str
        "conductance", "integrated_gradients" or "ablation".
    task : str, optional
        "understanding" or "generation", as in `extract`.
    timestep : float, optional
        One timestep of the generation task.
    steps : int
        The steps of a path, at least 2.
    batch_size : int
        How many steps run at once, at least 2.
    device : str
        Where to run. "auto" is the GPU where there is one.

    Returns
    -------
    DataFrame
        One row per layer and modality: subject, task, timestep, modality, layer, depth, method, attribution (mean over
        stimuli, in units of the output), low, high (95 %, Student's t over stimuli), share (of the mean gain), gain
        (mean of output(real) - output(baseline)), error (mean distance between a layer's sum and the gain; NaN for
        ablation), samples. The modality "other" is the tokens of none, which share their states from the first block
        on.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If the method is unknown, if a path has too few steps, or for what `extract` refuses.
    RuntimeError
        If a layer runs twice in a pass.

    See Also
    --------
    attention_mass : Needs no output to judge by, and one pass in place of many.
    complementarity_map : Compares two models by what their features predict; this looks into one model.
    bridgework.models.ablate_links : Breaks bridges of a trained model, where this replaces states of any layer.

    Notes
    -----
    The model runs about 2 x steps times for each layer and stimulus.

    References
    ----------
    .. [1] Dhamdhere et al. 2018, How important is a neuron?
    .. [2] Sundararajan et al. 2017, Axiomatic attribution for deep networks.

    Examples
    --------
    >>> from bridgework.models.evaluation.objectives import answer_log_probability
    >>> attribute(vlm, stimuli[:2], answer_log_probability(vlm.tokenizer), method="ablation")
    """
    checked("method", method, str, known=METHODS)
    for name, count in (("steps", steps), ("batch_size", batch_size)):
        checked(name, count, int, least=2, remedy="a path has two ends")
    checked(
        "output", output, Callable, remedy="it takes (result, stimuli, shown) and returns a tensor, one number a sample"
    )
    check_shown(subject, stimuli)
    task = check_task(subject, task, () if timestep is None else (timestep,))
    device = chosen_device(device)
    rows = []
    with prepared(subject, device):
        means = _means(subject, stimuli, task, timestep)
        for stimulus in tqdm(stimuli, desc=f"{method} {subject.name}", leave=False):
            replay = Replay(subject, stimulus, output, task, timestep)
            baselines = tuple(
                _at_mean(state[0], stream, replay.shown, means[EMBEDDINGS])[None]
                for state, stream in zip(replay.inputs, replay.streams[EMBEDDINGS], strict=True)
            )
            with torch.no_grad():
                gain = (replay(*replay.inputs) - replay(*baselines)).item()
            for layer in replay.layers:
                if method == "ablation":
                    sums, error = dict(_ablated(replay, layer, means[layer])), np.nan
                else:
                    states = _along(replay, layer, baselines, method, steps, batch_size)
                    sums = dict(_sums(replay, layer, states))
                    error = abs(sum(sums.values()) - gain)
                for modality, value in sums.items():
                    rows.append((stimulus.id, layer, modality, value, gain, error))
    return _table(pd.DataFrame(rows, columns=["id", "layer", "modality", "value", "gain", "error"]), subject).assign(
        subject=subject.name, task=task, timestep=timestep, method=method
    )[list(COLUMNS)]


COLUMNS = (
    "subject", "task", "timestep", "modality", "layer", "depth", "method",
    "attribution", "low", "high", "share", "gain", "error", "samples",
)  # fmt: skip


def _table(values: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    layers = (EMBEDDINGS, *subject.blocks)
    rows = []
    for (layer, modality), samples in values.groupby(["layer", "modality"], sort=False):
        index, gain = layers.index(layer), samples["gain"].mean()
        mean, low, high = map(float, mean_interval(samples["value"].to_numpy()))
        row = {"layer": layer if index == 0 else str(index - 1), "modality": modality}
        row |= {"depth": index / (len(layers) - 1), "attribution": mean, "low": low, "high": high}
        rows.append(
            row | {"share": mean / gain, "gain": gain, "error": samples["error"].mean(), "samples": len(samples)}
        )
    return pd.DataFrame(rows)


@torch.enable_grad()
def _along(
    replay: Replay, layer: str, baselines: tuple[Tensor, ...], method: str, steps: int, batch_size: int
) -> tuple[Tensor, ...]:
    """Return the attribution of every number of a layer's states, (1, *state) for each stream."""
    from captum.attr import LayerConductance, LayerIntegratedGradients  # imports matplotlib, which probes do without

    options: dict[str, Any] = {"n_steps": steps, "internal_batch_size": batch_size}
    if method == "integrated_gradients":
        gradients = LayerIntegratedGradients(replay, replay.taps[layer])
        return _tuple(gradients.attribute(replay.inputs, baselines, **options))
    conductance = LayerConductance(replay, replay.taps[layer])
    options["method"] = "riemann_trapezoid"  # its points, unlike the default's, include both ends of the path
    forward = _tuple(conductance.attribute(replay.inputs, baselines, **options))
    backward = _tuple(conductance.attribute(baselines, replay.inputs, **options))
    return tuple((a - b) / 2 for a, b in zip(forward, backward, strict=True))


def _tuple(states: Any) -> tuple[Tensor, ...]:
    return tuple(s.detach() for s in states) if isinstance(states, tuple) else (states.detach(),)


def _sums(replay: Replay, layer: str, states: tuple[Tensor, ...]) -> Iterator[tuple[str, float]]:
    """Yield each modality's sum over its tokens, and the rest as "other"."""
    rest = 0.0
    for stream, state in zip(replay.streams[layer], states, strict=True):
        tokens = state[0].double().sum(replay.shown.dim_axis).flatten()
        rest += tokens.sum().item()
        for modality in _read_from(replay.shown, stream):
            value = tokens[token_positions(replay.shown.tokens[modality], len(tokens))].sum().item()
            rest -= value
            yield modality, value
    yield OTHER, rest


def _ablated(replay: Replay, layer: str, means: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    from captum.attr import LayerFeatureAblation

    with torch.no_grad():
        states: list[Tensor] = []
        handle = replay.taps[layer].register_forward_hook(lambda module, given, out: states.extend(given))
        try:
            replay(*replay.inputs)
        finally:
            handle.remove()
    baselines, groups, names = [], [], [OTHER]
    for stream, state in zip(replay.streams[layer], states, strict=True):
        baselines.append(_at_mean(state[0], stream, replay.shown, means)[None])
        group = torch.zeros_like(state[0].movedim(replay.shown.dim_axis, -1), dtype=torch.long)  # 0: left as it is
        for modality in _read_from(replay.shown, stream):
            count = group[..., 0].numel()
            group.view(count, -1)[token_positions(replay.shown.tokens[modality], count)] = len(names)
            names.append(modality)
        groups.append(group.movedim(-1, replay.shown.dim_axis)[None])
    found = _tuple(
        LayerFeatureAblation(replay, replay.taps[layer]).attribute(
            replay.inputs, layer_baselines=tuple(baselines), layer_mask=tuple(groups)
        )
    )
    for number, modality in enumerate(names[1:], 1):
        yield (
            modality,
            next(f[g == number][0].item() for f, g in zip(found, groups, strict=True) if (g == number).any()),
        )


def _means(subject: Subject, stimuli: Stimuli, task: str, timestep: float | None) -> Means:
    """Return the mean state of each modality's tokens, over all stimuli, at every layer."""
    sums: dict[tuple[str, str], Tensor] = {}
    counts: dict[tuple[str, str], int] = {}
    for stimulus in stimuli:
        shown = subject.show([stimulus], subject.modalities, task, timestep)

        def keep(layer: str, stream: str | None, state: Tensor, shown: ForwardPass = shown) -> None:
            flat = state.movedim(shown.dim_axis, -1).flatten(0, -2)
            for modality in _read_from(shown, stream):
                tokens = flat[token_positions(shown.tokens[modality], len(flat))]
                sums[layer, modality] = sums.get((layer, modality), 0) + tokens.double().sum(0)
                counts[layer, modality] = counts.get((layer, modality), 0) + len(tokens)

        with torch.inference_mode(), capture(subject.model, (EMBEDDINGS, *subject.blocks), keep=keep):
            shown.run()
    means: Means = {}
    for (layer, modality), total in sums.items():
        means.setdefault(layer, {})[modality] = (total / counts[layer, modality]).clone()
    return means


def _at_mean(state: Tensor, stream: str | None, shown: ForwardPass, means: dict[str, Tensor]) -> Tensor:
    """Return the state with every modality's tokens at their mean, and other tokens as they are."""
    moved = state.detach().movedim(shown.dim_axis, -1).clone()
    flat = moved.view(-1, moved.shape[-1])
    for modality in _read_from(shown, stream):
        flat[token_positions(shown.tokens[modality], len(flat))] = means[modality].to(flat)
    return moved.movedim(-1, shown.dim_axis)


def _read_from(shown: ForwardPass, stream: str | None) -> Iterator[str]:
    return (modality for modality in shown.tokens if shown.streams.get(modality) == stream)
