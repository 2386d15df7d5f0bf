"""What can be probed: a subject, and what it hands over for one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from ..hooks.model_state import dispatched, evaluating
from ..stimuli.stimulus_set import Stimulus

TASKS = ("understanding", "generation")
MODALITIES = ("image", "text")


class ForwardPass(NamedTuple):
    """One forward pass over a batch, ready to run, and where each modality's tokens stand in the hidden states.

    Attributes:
        run: runs it.
        tokens: the tokens of each modality that count, leaving out sinks, padding, special and template tokens: a bool
            mask (batch, token); or positions (batch, kept) in reading order, -1 where a sample has fewer, counted over
            the hidden state without its dim axis, flattened, which describes packed, permuted, unbatched and
            batch-second states as well; or None for every token of a (batch, ...) state, whatever its resolution.
        streams: the stream that each modality is read from, where blocks have several: "image" or "text".
        special: what `tokens` leaves out although the modality's own (first-token sinks, begin of sequence, class and
            register tokens), in the same form; pooled too where a caller asks for sinks.
        dim_axis: the axis of the hidden state that is dim: -1, or 1 for the maps (batch, dim, row, column) of a U-Net.
    """

    run: Callable[[], Any]
    tokens: Mapping[str, Tensor | None]
    streams: Mapping[str, str | None] = {}
    special: Mapping[str, Tensor] = {}
    dim_axis: int = -1


Shown = ForwardPass  # the old name, kept for one release


class Subject(Protocol):
    """Anything that can be probed: a model, its blocks in depth order, and how stimuli become its inputs."""

    # Read-only, so that a subject may be more precise: its model's own class, a tuple of one task.
    @property
    def name(self) -> str: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def blocks(self) -> tuple[str, ...]: ...  # dotted paths in depth order
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def timed_tasks(self) -> tuple[str, ...]: ...  # the tasks that are probed at timesteps

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows these modalities of the stimuli and nothing of the other, for a task."""
        ...


@contextmanager
def prepared(subject: Subject, device: str) -> Iterator[None]:
    """The subject in evaluation mode, on a device unless accelerate has dispatched it; its training flags come back."""
    if not dispatched(subject.model):
        subject.model.to(device)
    with evaluating(*modules_of(subject).values()):
        yield


def modules_of(subject: Subject) -> dict[str, nn.Module]:
    """The subject's model and every other module that it holds, alone or in a pipeline."""
    found: dict[str, nn.Module] = {"model": subject.model}
    for name, value in sorted(getattr(subject, "__dict__", {}).items()):
        parts = getattr(value, "components", None)
        inside = {f"{name}.{part}": each for part, each in parts.items()} if isinstance(parts, dict) else {name: value}
        for path, each in inside.items():
            if isinstance(each, nn.Module) and not any(each is other for other in found.values()):
                found[path] = each
    return found
