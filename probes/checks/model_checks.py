"""Check a model of one's own: that it runs, repeats itself, is the same alone and in a batch, and stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from inspect import getclosurevars, isfunction
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ..arguments import checked
from ..extraction.checking import PADDING, STATE, differences, tolerance
from ..extraction.options import check_shown, fitted
from ..extraction.passes import PassRunner, concatenate_batches
from ..extraction.token_selection import token_positions
from ..extraction_options import ExtractionOptions
from ..fingerprints.running_state import fingerprint
from ..hooks.block_stacks import find_stacks
from ..hooks.capturing import EMBEDDINGS
from ..hooks.model_memory import forgetting
from ..hooks.model_state import walk
from ..private_names import HOOKS
from ..reading.hidden_state_index import hidden_state_layers
from ..stimuli.stimulus_set import Stimuli, Stimulus
from ..subjects.subject import Subject, denoised_modalities, modules_of, prepared
from ..workers.devices import chosen_device

PASSES, FAILS, UNKNOWN = "passes", "fails", "unknown"
FEW, AMONG = 4, 64  # stimuli that are shown, and those that they are chosen from
NOT_CHECKED = (
    "whether the inputs are those that the model was trained with: its template, normalisation, scale of timesteps",
    "what is as wrong alone as in a batch, and what goes wrong on other stimuli alone",
    "other devices, precisions and versions than these",
)


class Check(NamedTuple):
    """One row of the table: what was looked at, what was found, whether that is right, and what helps if not."""

    check: str
    shown: str
    found: str
    verdict: str
    remedy: str = ""


def check_model(
    subject: Subject, stimuli: Stimuli, *, timesteps: Sequence[float] = (0.5,), device: str = "auto"
) -> pd.DataFrame:
    """Check that a model is read rightly, by some passes over a few stimuli.

    Parameters
    ----------
    subject : Subject
        The model: an expert, or `AnyModel(model, inputs)`.
    stimuli : Stimuli
        What it is shown. Up to 4 are taken, whose texts differ in length, so that there is padding.
    timesteps : sequence of float
        The timesteps of tasks that have some.
    device : str
        As of `extract`. The model is left on the device.

    Returns
    -------
    DataFrame
        One row a check, with the columns check, shown (the task and what a pass shows), found (what was seen, in
        words), verdict and remedy. A verdict is "passes", "fails", or "unknown" where nothing can be said.

        =============  ============================================================================================
        check          what passes
        =============  ============================================================================================
        blocks         the layers that are read are one stack of the model, in order
        runs           a pass gives finite states of every layer, and tokens of every modality
        repeats        the same pass twice gives the same states
        alone          a stimulus has the same states alone as in a batch, up to rounding
        padding side   padding on the left and on the right give the same states, or the side that is set is right
        hidden states  hooks read, bit for bit, what the model itself returns as hidden states
        no trace       weights, buffers, hooks, modes and the model's output are as before
        =============  ============================================================================================

        `attrs["not_checked"]` says what no check can know.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        Timesteps or device do not fit the subject.

    See Also
    --------
    extract : Shows one stimulus again by itself, in every extraction.
    hidden_states_index : Says which of a model's own hidden states a layer is.

    Notes
    -----
    A model takes about 20 passes over 4 stimuli.

    Examples
    --------
    >>> table = check_model(open_expert("scenes-vlm"), load_stimuli("noto", 4))
    >>> table[table["verdict"] == "fails"]
    """
    check_shown(subject, stimuli)
    checked("timesteps", timesteps, Sequence[float], above=0, most=1)
    device = chosen_device(device)
    batch = _unlike_lengths(stimuli)
    modes = [
        (_mode(subject, task, joint, timesteps, device, batch), f"{task}, {_shown(subject, joint)}")
        for task in subject.tasks
        for joint in ((False, True) if len(subject.modalities) > 1 else (False,))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of is a row of the table
        rows = [_blocks(subject)]
        modules = modules_of(subject).values()
        before = [module.training for part in modules for module in walk(part)]
        with prepared(subject, device):
            made = {name: fingerprint(part) for name, part in modules_of(subject).items()}
            output = _output(modes[0][0], batch)
            hooks = _hooks(subject)  # after a pass: transformers hooks a vision tower by itself when it first runs
            for passes, shown in modes:
                rows += _passes(passes, shown, batch)
            rows.append(_padding(modes[0][0], modes[0][1], batch))
            trace = [name for name, part in modules_of(subject).items() if fingerprint(part) != made[name]]
            trace += ["hooks"] * (_hooks(subject) != hooks)
            same = _same_output(output, _output(modes[0][0], batch))
            # It comes last: transformers itself leaves hooks on a model that is asked for its hidden states.
            hidden = _hidden_states(modes[0][0], modes[0][1], batch)
        after = [module.training for part in modules for module in walk(part)]
    trace += ["training modes"] * (after != before)
    repeats = all(row.verdict == PASSES for row in rows if row.check == "repeats" and row.shown == modes[0][1])
    rows.append(_no_trace(trace, same, repeats))
    table = pd.DataFrame([*rows, hidden])
    table.attrs["not_checked"] = list(NOT_CHECKED)
    table.attrs["stimuli"] = [stimulus.id for stimulus in batch]
    return table


def _unlike_lengths(stimuli: Stimuli) -> list[Stimulus]:
    """Return a few stimuli from the shortest to the longest text."""
    among = sorted((stimuli[place] for place in range(min(AMONG, len(stimuli)))), key=lambda s: len(s.text or ""))
    places = [round(part * (len(among) - 1) / (FEW - 1)) for part in range(FEW)]
    return [among[place] for place in dict.fromkeys(places)]


def _mode(
    subject: Subject, task: str, joint: bool, timesteps: Sequence[float], device: str, batch: list[Stimulus]
) -> PassRunner:
    times = tuple(timesteps) if task in subject.timed_tasks else ()
    options = fitted(ExtractionOptions(task, times, joint, device=device, batch_size=FEW), subject)
    return PassRunner(subject, options, denoised_modalities(subject, batch, task, times))


def _shown(subject: Subject, joint: bool) -> str:
    return " with ".join(subject.modalities) if joint else " and ".join(subject.modalities)


# ---------------------------------------------------------------------------------------------------- single checks


def _blocks(subject: Subject) -> Check:
    stacks = _stacks(subject)
    read = [path for path, blocks in stacks.items() if set(blocks) & set(subject.blocks)]
    others = [f"{path} ({len(blocks)})" for path, blocks in stacks.items() if path not in read]
    found = f"{len(subject.blocks)} blocks of {', '.join(read) or 'no stack'}"
    found += f"; not read: {', '.join(others)}" if others else ""
    whole = [block for path in read for block in stacks[path]] == list(subject.blocks)
    remedy = "" if whole else "the blocks are the subject's own choice: compare them with find_stacks(model)"
    return Check("blocks", "", found, PASSES if whole else UNKNOWN, remedy)


def _stacks(subject: Subject) -> dict[str, list[str]]:
    try:
        return find_stacks(subject.model)
    except ValueError:  # structure shows none; the subject names its blocks itself
        return {}


def _passes(passes: PassRunner, shown: str, batch: list[Stimulus]) -> Iterator[Check]:
    """Yield what a kind of pass shows: it runs, repeats itself, and does not mix the stimuli of a batch."""
    try:
        states = passes.run(batch, stop=False)
    except Exception as error:
        yield Check("runs", shown, _sentence(error), FAILS, "mend the inputs, or leave the modality or layer out")
        return
    yield Check("runs", shown, _contents(passes, batch, states), PASSES)
    allowed = tolerance(passes)
    again = _largest(states, passes.run(batch, stop=False))
    repeats = again <= allowed
    yield Check(
        "repeats",
        shown,
        "equal to the bit" if again == 0 else f"differs by {again:.2g} of the largest value",
        PASSES if repeats else FAILS,
        "" if repeats else f"{STATE}; or it draws at random: switch dropout and sampling off",
    )
    if not repeats or len(batch) < 2:
        why = "a pass does not repeat itself" if not repeats else "there is one stimulus"
        yield Check("alone", shown, why, UNKNOWN, "repair that first" if not repeats else "pass more stimuli")
        return
    try:
        alone = concatenate_batches([passes.run([stimulus], stop=False) for stimulus in batch])
    except Exception as error:
        yield Check("alone", shown, f"cannot be shown alone: {_sentence(error)}", UNKNOWN)
        return
    size = _largest(states, alone)
    found = f"differs by {size:.2g} of the largest value, where {allowed:g} is rounding"
    yield Check("alone", shown, found, PASSES if size <= allowed else FAILS, "" if size <= allowed else PADDING)


def _contents(passes: PassRunner, batch: list[Stimulus], states: Mapping[str, Tensor]) -> str:
    """Describe what was read: layers of each modality, and the tokens of the first stimulus."""
    parts = []
    time = passes.times[0]
    for group in passes.groups:
        known = time if set(group) & set(passes.denoised) or time is None else 1.0
        with forgetting(passes.subject.model):
            tokens = passes.subject.show(batch[:1], group, str(passes.options.task), known).tokens
        for modality in group:
            layers = {name.split("/")[1] for name in states if name.split("/")[0] == modality}
            count = "all" if tokens.get(modality) is None else str(len(token_positions(tokens[modality])))
            parts.append(f"{len(layers)} layers, {count} {modality} tokens")
    return "; ".join(parts)


def _padding(passes: PassRunner, shown: str, batch: list[Stimulus]) -> Check:
    tokenizer = next(_tokenizers(passes.subject), None)
    if tokenizer is None or "text" not in passes.subject.modalities:
        return Check("padding side", shown, "no tokenizer is found on the subject", UNKNOWN)
    set_to = tokenizer.padding_side
    try:
        allowed = tolerance(passes)
        alone = concatenate_batches([passes.run([stimulus], stop=False) for stimulus in batch])
        sizes = {}
        for side in ("left", "right"):
            tokenizer.padding_side = side
            sizes[side] = _largest(alone, passes.run(batch, stop=False))
    except Exception as error:
        return Check("padding side", shown, _sentence(error), UNKNOWN)
    finally:
        tokenizer.padding_side = set_to
    wrong = [side for side, size in sizes.items() if not size <= allowed]
    found = f"set to {set_to}; " + ", ".join(f"{side} differs by {size:.2g}" for side, size in sizes.items())
    if set_to in wrong:
        return Check(
            "padding side", shown, found, FAILS, f"set tokenizer.padding_side, which is {set_to}, to the other"
        )
    return Check("padding side", shown, found, PASSES, f"never pad on the {wrong[0]}" if wrong else "")


def _hidden_states(passes: PassRunner, shown: str, batch: list[Stimulus]) -> Check:
    subject, name = passes.subject, "hidden states"
    stack = [path for path, blocks in _stacks(subject).items() if list(blocks) == list(subject.blocks)]
    if not stack:
        return Check(name, shown, "the blocks are no single stack of the model", UNKNOWN)
    given: list[tuple[tuple, dict[str, Any]]] = []
    handle = subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    try:
        _output(passes, batch)
    except Exception as error:
        return Check(name, shown, _sentence(error), UNKNOWN)
    finally:
        handle.remove()
    try:
        if not given or given[0][0]:
            raise ValueError("the model is not called as a whole with named inputs")
        held = hidden_state_layers(subject.model, given[0][1], stack[0])
    except Exception as error:
        return Check(name, shown, f"cannot be compared: {_sentence(error)}", UNKNOWN)
    wanted = [EMBEDDINGS, *map(str, range(len(subject.blocks)))]
    own = [layer for layer in wanted if layer in held]
    found = f"{len(own)} of {len(wanted)} layers are equal to the bit to one of the model's {len(held)}"
    if held[-1] not in wanted and held[-1] is not None:
        found += f"; its last one is {held[-1]}"
    enough = len(own) >= len(wanted) - 1
    remedy = "" if enough else "see hidden_states_index: the model counts in another way, or changes states between"
    return Check(name, shown, found, PASSES if enough else UNKNOWN, remedy)


def _no_trace(trace: list[str], same: bool | None, repeats: bool) -> Check:
    if trace:
        return Check("no trace", "", f"changed: {', '.join(dict.fromkeys(trace))}", FAILS, STATE)
    if same is None or not repeats:
        return Check("no trace", "", "weights, buffers, hooks and modes are as before; outputs do not compare", UNKNOWN)
    found = "weights, buffers, hooks, modes and output are as before" if same else "the output has changed"
    return Check("no trace", "", found, PASSES if same else FAILS, "" if same else STATE)


# ---------------------------------------------------------------------------------------------------- comparisons


def _largest(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Return the largest difference of any state, over the state's largest value for each stimulus."""
    worst = 0.0
    for place in range(next(iter(one.values())).shape[1]):
        rows = [{name: tensor[:, place : place + 1] for name, tensor in each.items()} for each in (one, two)]
        worst = max([worst, *(size for _, size in differences(*rows))])
    return worst


def _output(passes: PassRunner, batch: list[Stimulus]) -> list[Tensor]:
    """Run a bare pass, without any hook of ours, and return the tensors of its output."""
    subject = passes.subject
    group = passes.groups[0]
    time = passes.times[0] if set(group) & set(passes.denoised) or passes.times[0] is None else 1.0
    with torch.no_grad(), forgetting(subject.model):
        return list(_tensors(subject.show(batch, group, str(passes.options.task), time).run()))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _same_output(before: list[Tensor], after: list[Tensor]) -> bool | None:
    """Return whether two outputs are equal to the bit; None where they hold no tensors."""
    if not before:
        return None
    return len(before) == len(after) and all(map(_equal, before, after))


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool(((one == two) | ((one != one) & (two != two))).all())  # NaN is NaN


def _hooks(subject: Subject) -> int:
    """Count all hooks of a subject's modules."""
    modules = [module for part in modules_of(subject).values() for module in walk(part)]
    return sum(len(getattr(module, store)) for module in modules for store in HOOKS)


def _tokenizers(subject: Subject) -> Iterator[Any]:
    """Yield the tokenizers that a subject holds, by itself, in a processor, or around its function of inputs."""
    held = list(getattr(subject, "__dict__", {}).values())
    makes = getattr(subject, "inputs", None)
    if isfunction(makes):
        used = getclosurevars(makes)
        held += [*used.nonlocals.values(), *used.globals.values()]
    for value in held:
        for found in (value, getattr(value, "tokenizer", None)):
            if isinstance(getattr(found, "padding_side", None), str) and callable(found):
                yield found


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
