"""Show one stimulus again, alone, and compare its states with those that were kept.

This finds what no rule foresees: padding that shifts positions, caches that return states of another step, loops that
begin later, batches that change a stimulus, and models that are no longer what a store was made with.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..extraction_options import PRECISIONS
from ..hooks.capturing import LayerRanAgain
from ..hooks.model_state import device_of
from ..stimuli.stimulus_set import Stimuli, Stimulus
from .passes import PassRunner

# The largest difference that rounding makes, over the largest value of a stimulus's state in a layer.
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
COARSE = 0.15  # of weights or activations in 8 bits and less, which are rounded anew in every batch
TF32 = 1e-2
PADDING = (
    "the batch changes it: left padding by a mask alone where positions are absolute (pad on the right, or pass "
    "position_ids), padding that no mask hides, or routing and normalisation over the whole batch. batch_size=1 shows "
    "every stimulus alone"
)
STATE = (
    "a pass changes the next: a cache of steps or blocks, a counter, a loop that began later. Switch it off, or open "
    "the model anew"
)
CHANCE = (
    "two passes over it alone differ as well, so the model draws at random (dropout left on, sampling) or a pass "
    "changes the next (a cache, a counter): switch that off"
)
CHANGED = (
    "model, inputs, libraries or device have changed since the store was made, in a way that its record does not show: "
    "extract into another folder"
)


class StimulusDiffers(RuntimeError):
    """Report a stimulus whose states, shown again alone, are not those that were kept."""


@dataclass(frozen=True)
class KeptStimulus:
    """One stimulus as it was shown and kept.

    Attributes
    ----------
    stimuli : Stimuli
        All stimuli.
    batch : sequence of int
        The positions of those that it was shown with, itself among them.
    place : int
        Its place in the batch.
    tensors : mapping of str to torch.Tensor
        What was kept of it, as in a shard, (timestep, 1, ...).
    held : bool
        Whether it comes from a store that was there before this run.
    """

    stimuli: Stimuli
    batch: Sequence[int]
    place: int
    tensors: Mapping[str, Tensor]
    held: bool

    @property
    def alone(self) -> list[Stimulus]:
        """The stimulus, as a batch of one."""
        return [self.stimuli[self.batch[self.place]]]

    def shown_with(self, passes: PassRunner) -> dict[str, Tensor]:
        """Show the whole batch again, and return what `tensors` would be."""
        tensors = passes.run([self.stimuli[place] for place in self.batch], stop=False)
        return {name: tensor[:, self.place : self.place + 1] for name, tensor in tensors.items()}


def batch_to_check(batches: Sequence[Sequence[int]], lengths: Sequence[int], numbers: Iterable[int]) -> int:
    """Choose the batch of which a stimulus is shown again.

    Parameters
    ----------
    batches : sequence of sequence of int
        The positions of the stimuli of each batch, by length.
    lengths : sequence of int
        The length of every stimulus.
    numbers : iterable of int
        The batches to choose from.

    Returns
    -------
    int
        The last whose first stimulus is padded about as much as any, and not the first batch of the run, which was
        shown in whole passes.
    """
    numbers = sorted(numbers)
    numbers = [number for number in numbers if number] or numbers
    padded = {n: lengths[batches[n][-1]] - lengths[batches[n][0]] for n in numbers}
    most = max(padded.values())
    several = [n for n in numbers if 2 * padded[n] >= most and len(batches[n]) > 1]
    return (several or numbers)[-1]


def check_stimulus(passes: PassRunner, kept: KeptStimulus) -> None:
    """Show a stimulus again, alone and in a whole pass, and raise an error where its states differ.

    Of several timesteps the second is shown, and then the first: in this order, a cache of steps shows. Where one
    stimulus alone cannot be shown, its batch is, with a warning.

    Parameters
    ----------
    passes : PassRunner
        What is asked of the subject, which must be prepared.
    kept : KeptStimulus
        The stimulus.

    Raises
    ------
    StimulusDiffers
        A layer differs by more than rounding does. The message names layer, stimulus, size and cause.
    RuntimeError
        Neither the stimulus nor its batch can be shown again.
    """
    times = tuple(passes.options.timesteps)
    again = replace(passes, options=replace(passes.options, timesteps=times[1::-1]))
    expected = {name: tensor[: max(1, len(times[:2]))].flip(0) for name, tensor in kept.tensors.items()}
    try:
        alone = again.run(kept.alone, stop=False)
    except LayerRanAgain:
        raise
    except Exception as error:
        alone = _with_batch(again, kept, error)
    allowed = tolerance(passes)
    found = list(differences(expected, alone))
    wrong = [(name, size) for name, size in found if not size <= allowed]
    if wrong:
        raise StimulusDiffers(_message(again, kept, expected, alone, wrong, len(found), allowed))


def tolerance(passes: PassRunner) -> float:
    """Return the largest relative difference that the precision of model, passes and stored values explains.

    Parameters
    ----------
    passes : PassRunner
        What is asked of the subject.

    Returns
    -------
    float
        A share of the largest value of a state.
    """
    model = passes.subject.model
    kinds = {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if _is_number(tensor)}
    options = passes.options
    kinds |= {getattr(torch, name) for name in (options.dtype, PRECISIONS.get(str(options.precision), "float32"))}
    found = [TOLERANCES.get(kind, COARSE if kind.itemsize == 1 else TOLERANCES[torch.float32]) for kind in kinds]
    if any("quantized" in type(module).__module__ for module in model.modules()):
        found.append(COARSE)
    if device_of(model).type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        found.append(TF32)
    return max(found)


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or (tensor.ndim > 1 and tensor.dtype in (torch.int8, torch.uint8))


def _with_batch(again: PassRunner, kept: KeptStimulus, error: Exception) -> dict[str, Tensor]:
    """Return a stimulus's states from its whole batch, where it cannot be shown alone."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    stimulus, name = kept.alone[0].id, again.subject.name
    try:
        if len(kept.batch) == 1:
            raise error
        found = kept.shown_with(again)
    except Exception:
        raise RuntimeError(
            f"stimulus {stimulus!r} cannot be shown to {name} again ({reason}), so nothing checks what was kept: "
            "a pass has changed the model, or one of its inputs; check=False leaves the check out"
        ) from error
    warnings.warn(
        f"{name} cannot be shown stimulus {stimulus!r} alone ({reason}): it was checked together with its batch",
        stacklevel=2,
    )
    return found


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield how far the states of one stimulus differ.

    Parameters
    ----------
    expected, found : mapping of str to torch.Tensor
        What was kept of it and what is there now, as in a shard, (timestep, 1, ...).

    Yields
    ------
    str, float
        The name of a state, and its largest difference over its largest value; infinity where shapes differ.
    """
    for name, again in found.items():
        if name.endswith(("/counts", "/norms")):
            continue
        worst = 0.0
        for time, (one, two) in enumerate(zip(expected[name], again, strict=True) if name in expected else ()):
            count = f"{name.removesuffix('/clamped')}/counts"
            counts = [tensors[count][time] for tensors in (expected, found) if count in tensors]
            if counts and not torch.equal(*counts):
                worst = torch.inf
                continue
            if counts:  # behind them is padding
                one, two = (state[:, : int(counts[0])] for state in (one, two))
            if one.shape != two.shape:
                worst = torch.inf
                continue
            one, two = one.double(), two.double()
            largest = max(float(one.abs().max()), float(two.abs().max()))
            worst = max(worst, float((one - two).abs().max()) / largest if largest else 0.0)
        yield name, worst if name in expected else torch.inf


def _message(
    again: PassRunner,
    kept: KeptStimulus,
    expected: Mapping[str, Tensor],
    alone: Mapping[str, Tensor],
    wrong: Sequence[tuple[str, float]],
    count: int,
    allowed: float,
) -> str:
    first, size = wrong[0]
    most, largest = max(wrong, key=lambda pair: pair[1])
    modality, layer = first.split("/")[:2]
    path = again.layers.get(layer, layer)
    whole = f"{len(wrong)} of {count} states differ, {most.split('/')[1]!r} the most, by {largest:.2g}"
    how = f"they differ by {size:.2g} of the largest value, where {allowed:g} is rounding"
    if torch.inf in (size, largest):
        how, whole = "it has another number of tokens or dims", f"{len(wrong)} of {count} states differ"
    return (
        f"layer {path!r} of {again.subject.name} holds other {modality} states for stimulus "
        f"{kept.alone[0].id!r} than the same stimulus gives when it is shown again, alone: {how} ({whole}). The likely "
        f"cause: "
        f"{_cause(again, kept, expected, alone, allowed)}. check=False keeps such features"
    )


def _cause(
    again: PassRunner,
    kept: KeptStimulus,
    expected: Mapping[str, Tensor],
    alone: Mapping[str, Tensor],
    allowed: float,
) -> str:
    """Return what fits two more passes: the stimulus alone once more, and its batch."""
    try:
        once_more = again.run(kept.alone, stop=False)
        if not _alike(alone, once_more, allowed):
            return CHANCE
        batch = kept.shown_with(again)
    except Exception:
        return CHANGED if kept.held else STATE
    if _alike(expected, batch, allowed):
        return PADDING
    return CHANGED if kept.held else STATE


def _alike(one: Mapping[str, Tensor], two: Mapping[str, Tensor], allowed: float) -> bool:
    return all(size <= allowed for _, size in differences(one, two))
