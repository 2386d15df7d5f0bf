"""Define what can be probed: a subject, and the forward pass that it prepares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from itertools import chain
from typing import Any, NamedTuple, Protocol

from PIL import Image
from torch import Tensor, nn

from ..hooks.model_state import dispatched, evaluating
from ..hooks.parallel_models import no_buffer_broadcasts
from ..single_contexts import single_context
from ..stimuli.stimulus_set import Stimulus
from .entering_states import ResidualStreams
from .input_changes import data_inputs


class ForwardPass(NamedTuple):
    """One forward pass over a batch, ready to run, with the places of each modality's tokens in the hidden states.

    Attributes
    ----------
    run : callable
        `run()` runs the pass and returns what the model returns.
    tokens : mapping of str to torch.Tensor or None
        The tokens of each modality that count, without sinks, padding, special and template tokens, in one of three
        forms. A bool mask (batch, token). Or positions (batch, kept) in reading order, -1 where a sample has fewer,
        counted over the hidden state without its dim axis, flattened: this form describes packed, permuted, unbatched
        and batch-second states as well. Or None for every token of a (batch, ...) state, whatever its resolution.
    streams : mapping of str to str or None
        The stream that each modality is read from, "image" or "text", where blocks have several.
    special : mapping of str to torch.Tensor
        Tokens that belong to a modality and that `tokens` leaves out (first-token sinks, begin of sequence, class and
        register tokens), in the same form. They are pooled too where a caller asks for special tokens.
    dim_axis : int
        The axis of the hidden state that is dim: -1, or 1 for the maps (batch, dim, row, column) of a U-Net.
    grids : mapping of str to sequence or callable
        The patch grid of each modality: for each stimulus (rows, columns), (frames, rows, columns), or a list of these
        for several pictures, in the order of its tokens. A function without arguments is called where a grid is asked
        for. Without it, only maps and tokens (batch, row, column) are pooled onto a grid: a square number of tokens
        says nothing.
    residual : ResidualStreams or None
        How the several states of each token become one, where the model keeps several; `tokens` and `dim_axis` are
        those of the state without their axis.
    cut : tuple of int
        The places in the batch of the stimuli whose caption is longer than what the pass shows of it.
    limit : int or None
        The number of tokens that captions are cut at, where it is known.
    missing : mapping of str to str
        Why a modality that is shown is not among `tokens`, for the error that says so.

    See Also
    --------
    Subject : Describes the models whose `show` returns this.
    AnyModel : Makes such passes from a function that returns inputs, and finds the tokens.
    """

    run: Callable[[], Any]
    tokens: Mapping[str, Tensor | None]
    streams: Mapping[str, str | None] = {}
    special: Mapping[str, Tensor] = {}
    dim_axis: int = -1
    grids: Mapping[str, Any] = {}
    residual: ResidualStreams | None = None
    cut: tuple[int, ...] = ()
    limit: int | None = None
    missing: Mapping[str, str] = {}


Shown = ForwardPass  # the old name, kept for one release


class Subject(Protocol):
    """Anything that can be probed: a model, its blocks in depth order, and the way stimuli become its inputs.

    Attributes
    ----------
    name : str
        What the subject is called in tables and stores.
    model : torch.nn.Module
        The model that runs.
    blocks : tuple of str
        Dotted paths of the blocks, in depth order.
    tasks : tuple of str
        "understanding", "generation" or both.
    modalities : tuple of str
        What it is shown, of "image", "text", "audio" and "video". A stimulus holds an image and a text; sound and clips
        come from the subject, such as by the stimulus's id.
    timed_tasks : tuple of str
        The tasks that are probed at timesteps.

    See Also
    --------
    AnyModel : Makes a subject of a model and a function that returns its inputs; try it before a class of your own.
    bridgework.models.open_expert : Opens families that are known as subjects.

    Notes
    -----
    A subject whose timesteps belong to another modality than the image says so by one more attribute, `denoised`, such
    as ("text",) for a language model that draws by unmasking, or ("image", "text") where both are drawn
    (`denoised_modalities`).
    """

    # Properties, so that a subject may be more precise: the class of its model, a tuple of one task.
    @property
    def name(self) -> str: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def blocks(self) -> tuple[str, ...]: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def timed_tasks(self) -> tuple[str, ...]: ...

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one forward pass over a batch.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            The batch.
        modalities : tuple of str
            What the pass shows of the stimuli. It shows nothing of the other modalities.
        task : str
            "understanding" or "generation".
        timestep : float or None
            The timestep of a task in `timed_tasks`, 0 = clean, 1 = noise. It belongs to the modalities that are
            denoised. A pass that shows none of them comes once, at 1: they are pure noise there.

        Returns
        -------
        ForwardPass
            The pass, not yet run.
        """
        ...


def denoised_modalities(
    subject: Subject, stimuli: Sequence[Stimulus] = (), task: str = "", timesteps: Sequence[float] = ()
) -> tuple[str, ...]:
    """Return the modalities that the timesteps of a subject belong to.

    Parameters
    ----------
    subject : Subject
        What is probed. Its attribute `denoised` says it. Where there is none, or it is None, its method
        `find_denoised(stimuli, task, timesteps)` finds it (`AnyModel`). Without either it is all but the text, or
        the text where there is nothing else.
    stimuli : sequence of Stimulus
        Some of what is shown.
    task : str
        The task that is probed.
    timesteps : sequence of float
        The timesteps that are asked for.

    Returns
    -------
    tuple of str
        "image", "text" or both.

    Raises
    ------
    ValueError
        The subject says a modality that it does not have.
    """
    modalities = tuple(subject.modalities)
    declared = getattr(subject, "denoised", None)
    if declared is None:
        default = tuple(modality for modality in modalities if modality != "text") or modalities
        find = getattr(subject, "find_denoised", None)
        return (find(stimuli, task, timesteps) if find and timesteps else ()) or default
    declared = (declared,) if isinstance(declared, str) else tuple(declared)
    if not declared or any(modality not in modalities for modality in declared):
        raise ValueError(
            f"{subject.name} says that {', '.join(declared) or 'nothing'} is denoised, but it has "
            f"{', '.join(modalities)}: name some of these, as denoised={modalities[:1]!r}"
        )
    return declared


@single_context
def prepared(subject: Subject, device: str) -> Iterator[None]:
    """Keep a subject in evaluation mode, on a device, while the context lasts.

    A model that accelerate has dispatched is not moved. Training flags are restored afterwards.

    Parameters
    ----------
    subject : Subject
        The subject. Its model stays on the device.
    device : str
        The device, such as "cuda:0".

    Raises
    ------
    ValueError
        A weight holds no values; nothing is moved.
    """
    for name, value in chain(subject.model.named_parameters(), subject.model.named_buffers()):
        if value.is_meta and not dispatched(subject.model):
            raise ValueError(
                f"{name!r} of {subject.name} lies on the device meta, which holds no values: load its weights first"
            )
    if not dispatched(subject.model):
        subject.model.to(device)
    modules = modules_of(subject).values()
    with evaluating(*modules), no_buffer_broadcasts(*modules):
        yield


def call_inputs(inputs: Callable[..., Any], *arguments: Any) -> Any:
    """Call a user's function of inputs with as many arguments as it takes.

    Parameters
    ----------
    inputs : callable
        Such as `inputs(stimuli)`, or `inputs(stimuli, modalities, task, timestep)`.
    *arguments : Any
        All four.

    Returns
    -------
    Any
        What it returns.
    """
    try:
        taken = signature(inputs).parameters.values()
    except (TypeError, ValueError):  # a callable of C says nothing of its arguments
        return inputs(*arguments)
    if any(one.kind is one.VAR_POSITIONAL for one in taken):
        return inputs(*arguments)
    positional = [one for one in taken if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return inputs(*arguments[: len(positional)])


def named_modalities(inputs: Callable[..., Any], kinds: Mapping[str, str], task: str) -> tuple[str, ...]:
    """Find which modalities a user's function of inputs shows, by the names of what it returns.

    Parameters
    ----------
    inputs : callable
        As of `AnyModel`.
    kinds : mapping of str to str
        The kinds of inputs whose names do not tell.
    task : str
        The task that it is asked for.

    Returns
    -------
    tuple of str
        Of "image", "text" and "audio"; image and text where the function fails on a blank stimulus, or names nothing.
    """
    usual = ("image", "text")
    blank = Stimulus(Image.new("RGB", (64, 64), "white"), "a", "blank")
    try:
        found = data_inputs(call_inputs(inputs, [blank], usual, task, None), kinds)
    except Exception:  # it may know its own stimuli alone, or need a timestep
        return usual
    return tuple(name for name in (*usual, "audio") if name in found) or usual


def modules_of(subject: Subject) -> dict[str, nn.Module]:
    """Return a subject's model and every other module that it holds, alone or in a pipeline.

    Parameters
    ----------
    subject : Subject
        The subject.

    Returns
    -------
    dict of torch.nn.Module
        "model", and the others by the name of the attribute, or "attribute.part" for a part of a pipeline. No module
        comes twice.
    """
    found: dict[str, nn.Module] = {"model": subject.model}
    for name, value in sorted(getattr(subject, "__dict__", {}).items()):
        parts = getattr(value, "components", None)
        held = {f"{name}.{key}": part for key, part in parts.items()} if isinstance(parts, dict) else {name: value}
        for path, module in held.items():
            if isinstance(module, nn.Module) and not any(module is other for other in found.values()):
                found[path] = module
    return found
