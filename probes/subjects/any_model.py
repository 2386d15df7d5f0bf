"""Probe any model: find its blocks by structure, and its tokens by changing its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import checked
from ..features.layer_features import ALLOWED
from ..hooks.block_stacks import find_stacks
from ..hooks.capturing import EMBEDDINGS, capture
from ..hooks.model_memory import forgetting
from ..hooks.model_state import device_of
from ..notebook_views import SubjectView
from ..private_names import COMPILED
from ..stimuli.stimulus_set import Stimulus
from .caption_tokens import CannotAsk, CaptionTokens, search_captions
from .input_changes import check_answers, check_kind_of_inputs, data_inputs, own_data_differ, unchanged
from .picture_grids import Place, find_grids
from .sample_rows import are_read_alike, divide_inputs, fills_rows
from .subject import ForwardPass, call_inputs, denoised_modalities, named_modalities
from .token_movement import Stream
from .token_streams import StreamMemory

ToInputs = Callable[..., Mapping[str, Any]]  # of (stimuli, modalities, task, timestep), or the first of them


@dataclass
class AnyModel(SubjectView):
    """A model that has no subject class, with a function that turns stimuli into its keyword arguments.

    Some passes up to the first block find the tokens (probes/subjects/token_streams.py). For pictures, sounds and clips
    of one shape they are remembered, and verified in every batch by two such passes. Where a modality's tokens cannot
    be found, an error asks for `extract(..., tokens={"text": slice(1, 8)})`.

    Text tokens are the caption's own. `inputs` is asked again with longer captions: what stays as it is around them
    (chat template, system prompt, examples) is template and is left out (probes/subjects/caption_tokens.py).

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : callable
        `inputs(stimuli, modalities, task, timestep)` returns what `model(**inputs)` takes. One that takes fewer
        arguments is given the first. The inputs show these modalities and nothing of the other. It is a function of
        what it is given: what it draws at random follows from the stimulus's id. It is asked for other captions than
        those of the stimuli, and for text that is denoised also at timestep 0.
    stack : str or sequence of str, optional
        The path of the stack to probe, or of several that hold their tokens alike (a U-Net's, Flux's two). It may be
        left out where the model has one stack.
    modalities, tasks : tuple of str
        What the model sees, of "image", "text", "audio" and "video", and what it can do. By default the modalities are
        found from the names of the inputs for a blank image and the text "a"; where `inputs` fails on that, they are
        image and text. Inputs such as `pixel_values_videos` are images for a model that has no "video".
    timed_tasks : tuple of str
        The tasks that are probed at timesteps.
    kinds : mapping of str to str
        The kinds of inputs whose names do not tell, such as {"x": "image"}.
    grids : callable, optional
        `grids(inputs)` returns the patch grid of each sample, as `ForwardPass.grids` describes, where inputs and pixels
        do not show it.
    name : str
        What the subject is called; by default the class of the model.
    denoised : tuple of str, optional
        The modalities that timesteps belong to. By default those whose inputs differ from timestep to timestep, else
        the image.
    residual_streams : str or int, optional
        What becomes of the states of a token where the model passes several from block to block (hyper-connections,
        AltUp): "mean", or the number of the one that is read. Without it such a model is refused.

    Attributes
    ----------
    stacks : dict of list of str
        The paths of the blocks of each stack that is probed.
    blocks : tuple of str
        The paths of all these blocks, in depth order.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        The model has no stack of that name, or several and none is named.

    See Also
    --------
    bridgework.models.open_expert : Opens families that are known, without a function for their inputs.
    find_stacks : Lists the stacks that can be named here.
    check_model : Checks that the model is read rightly.

    Examples
    --------
    >>> def inputs(stimuli, modalities, task, timestep):
    ...     texts = [s.text if "text" in modalities else "" for s in stimuli]
    ...     images = [s.image for s in stimuli] if "image" in modalities else None
    ...     return processor(images=images, text=texts, padding=True, return_tensors="pt")
    >>> features = extract(AnyModel(model, inputs, stack="model.language_model.layers"), stimuli)
    """

    model: nn.Module
    inputs: ToInputs
    stack: str | Sequence[str] | None = None
    modalities: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("understanding",)
    timed_tasks: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    grids: Callable[[Mapping[str, Any]], Sequence[Any]] | None = None
    denoised: tuple[str, ...] | None = None
    residual_streams: str | int | None = None
    # Found while the model runs: these are no settings that a store would compare.
    _resized: dict[str, bool] = field(default_factory=dict, init=False, repr=False)
    _warned: set[str] = field(default_factory=set, init=False, repr=False)
    _asked_twice: set[Any] = field(default_factory=set, init=False, repr=False)
    _found_denoised: tuple[str, ...] = field(default=(), init=False, repr=False)
    _remembered: StreamMemory = field(default_factory=StreamMemory, init=False, repr=False)

    def __post_init__(self) -> None:
        checked("inputs", self.inputs, Callable, remedy="it takes stimuli and returns what the model is called with")
        checked("stack", self.stack, str | Sequence[str] | None)
        for name in ("modalities", "tasks", "timed_tasks", "denoised"):
            if isinstance(named := getattr(self, name), str) or not isinstance(named, Sequence | NoneType):
                raise TypeError(f"{name} is {named!r}: expected a tuple of names, such as ('image', 'text')")
        if unknown := [task for task in self.tasks or ("none",) if task not in ALLOWED["task"]]:
            raise ValueError(f"unknown task {unknown[0]!r}: expected some of {', '.join(ALLOWED['task'])}")
        checked("kinds", self.kinds, Mapping)
        checked("grids", self.grids, Callable | None)
        self.name = checked("name", self.name, str) or type(getattr(self.model, COMPILED, self.model)).__name__
        stacks = find_stacks(self.model)
        named = [self.stack] if isinstance(self.stack, str) else list(self.stack or stacks)
        listing = ", ".join(f"{path!r} ({len(blocks)} blocks)" for path, blocks in stacks.items())
        if unknown := [path for path in named if path not in stacks]:
            raise ValueError(f"{self.name} has no stack {unknown[0]!r}: it has {listing}")
        if self.stack is None and len(stacks) > 1:
            raise ValueError(f"{self.name} has several stacks: say which, as stack=, of {listing}")
        self.stacks = {path: stacks[path] for path in named}
        self.modalities = tuple(self.modalities) or named_modalities(self.inputs, self.kinds, self.tasks[0])

    @property
    def blocks(self) -> tuple[str, ...]:
        """The paths of all probed blocks, in depth order."""
        return tuple(block for blocks in self.stacks.values() for block in blocks)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one forward pass over a batch, as `Subject.show` describes.

        Raises
        ------
        RuntimeError
            A stack never runs with these inputs.
        ValueError
            The stacks hold their tokens differently; `inputs` gives something else for the same stimuli; or the model
            keeps several states of each token, and `residual_streams` does not say what becomes of them.
        """
        inputs = self._inputs(stimuli, modalities, task, timestep)
        self._check_repeats(inputs, stimuli, modalities, task, timestep)
        captions = self._captions(inputs, stimuli, modalities, task, timestep) if "text" in modalities else None
        self._warn_of_length(inputs)
        found = self._remembered.find(
            self.model,
            inputs,
            modalities,
            stacks=self.stacks,
            kinds=self._kinds(inputs),
            samples=len(stimuli),
            own=captions.own if captions else None,
            residual_streams=self.residual_streams,
        )
        if missing := [path for path in self.stacks if path not in found]:
            raise RuntimeError(f"the stack {missing[0]!r} of {self.name} never runs with these inputs: probe another")
        first, *others = found.values()
        if any(not are_read_alike(first, other) for other in others):
            raise ValueError(
                f"the stacks {', '.join(found)} of {self.name} hold their tokens differently: probe one at a time"
            )
        residual = next(iter(first.values())).residual
        if self.residual_streams is not None and residual is None and "text" in modalities:
            raise ValueError(f"{self.name} has one state of each token: leave residual_streams out")
        tokens: dict[str, Tensor | None] = {}
        streams: dict[str, str | None] = {}
        special: dict[str, Tensor] = {}
        for name, stream in first.items():
            for modality in (m for m in modalities if m in stream.positions):
                if modality in streams:
                    raise ValueError(
                        f"blocks of {self.name} hand on two states of the {modality}, {streams[modality]!r} and "
                        f"{name!r}, as a residual or a memory beside the state: read parts of the blocks, as "
                        f"layers=['{self.blocks[0]}.norm']"
                    )
                all_tokens = fills_rows(stream) and residual is None and self._resizes(inputs, modality)
                tokens[modality] = None if all_tokens else _as_mask(stream, stream.positions[modality])
                streams[modality] = name
                if len(modalities) == 1 and "special" in stream.positions:
                    special[modality] = _as_mask(stream, stream.positions["special"])
                if modality in ("image", "video") and not stream.ordered:
                    self._warn_once(
                        f"the order of the {modality} tokens of {self.name} cannot be found, for patches overlap or "
                        "are mixed before the first block: they are taken as they stand, which changes no mean, but "
                        "which is the first, the last or a chosen one"
                    )
        if captions and "text" in modalities and "text" not in tokens and len(first) == 1 and len(modalities) == 1:
            tokens["text"] = torch.zeros(len(stimuli), 1, dtype=torch.bool)  # no caption has a token of its own
        missing = {m: self._why_missing(m, inputs, first) for m in modalities if m not in tokens}
        grids = {m: self._grids(m, inputs, name, first[name], len(stimuli)) for m, name in streams.items()}
        stream = next(iter(first.values()))
        return ForwardPass(
            lambda: self.model(**unchanged(inputs)),
            tokens,
            streams,
            special,
            -1 if stream.dim_axis == len(stream.shape) - 1 else stream.dim_axis,
            grids,
            residual=residual,
            cut=captions.cut if captions else (),
            missing=missing,
        )

    def _why_missing(self, modality: str, inputs: Mapping[str, Any], streams: Mapping[str | None, Stream]) -> str:
        """Return why none of the tokens that enter the first block are a modality's."""
        stack = next(iter(self.stacks))
        if modality not in data_inputs(inputs, self._kinds(inputs)):
            return f"none of the inputs is {modality}: {', '.join(inputs)}"
        if any("mixed" in stream.positions for stream in streams.values()):
            return f"tokens mix {modality} with other inputs before the first block of {stack!r}"
        return f"no token that enters {stack!r} moves with it: that stack reads none, or by cross-attention"

    def _kinds(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Return the kinds of inputs whose names do not tell, with those of videos where they are a modality."""
        images = data_inputs(inputs, self.kinds).get("image", []) if "video" in self.modalities else []
        return {name: "video" for name in images if "video" in name} | dict(self.kinds)

    def _grids(
        self, modality: str, inputs: Mapping[str, Any], stream: str | None, found: Stream, samples: int
    ) -> Callable[[], Sequence[Any]]:
        """Return a function that finds the patch grids of a modality, for it takes some passes."""

        def find() -> Sequence[Any]:
            if self.grids is not None:
                return self.grids(inputs)
            names = data_inputs(inputs, self._kinds(inputs)).get(modality, [])
            if len(names) != 1:
                raise ValueError(
                    f"{self.name} has {len(names)} inputs that are {modality} ({', '.join(names)}), and a patch grid "
                    "is found for one: say it, as AnyModel(..., grids=...), or pool by pooling='mean'"
                )
            block = next(iter(self.stacks.values()))[0]
            place = Place(self.model, block, stream, found.dim_axis, found.positions[modality])
            rows = divide_inputs(self.model, inputs, {modality: names}, samples)
            return find_grids(place, inputs, names[0], rows[names[0]])

        return find

    def find_denoised(self, stimuli: Sequence[Stimulus], task: str, timesteps: Sequence[float]) -> tuple[str, ...]:
        """Return the modalities whose own inputs differ from timestep to timestep.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            Some stimuli.
        task : str
            The task that is probed.
        timesteps : sequence of float
            The timesteps that are asked for.

        Returns
        -------
        tuple of str
            None of them where the inputs do not tell, or the model has one modality.
        """
        if len(self.modalities) > 1 and stimuli:
            times = min(timesteps), max(timesteps) if len(set(timesteps)) > 1 else 1.0
            found = []
            for modality in self.modalities:
                early, late = (self._inputs(stimuli, (modality,), task, time) for time in times)
                if own_data_differ(modality, early, late, self.kinds):
                    found.append(modality)
            self._found_denoised = tuple(found)
        return self._found_denoised

    def _inputs(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> dict[str, Any]:
        """Return the inputs of one pass, on the model's device."""
        given = call_inputs(self.inputs, stimuli, modalities, task, timestep)
        check_kind_of_inputs(self.name, given)
        device = device_of(self.model)
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}

    def _check_repeats(self, inputs: Mapping[str, Any], *asked: Any) -> None:
        """Raise ValueError where `inputs` does not do as its description says; each kind of pass is tried once."""
        stimuli, *kind = asked
        if tuple(kind) in self._asked_twice:
            return
        absent = [modality for modality in self.modalities if modality not in kind[0]]
        check_answers(self.name, lambda given: self._inputs(given, *kind), stimuli, inputs, absent)
        self._asked_twice.add(tuple(kind))

    def _captions(
        self,
        inputs: dict[str, Any],
        stimuli: Sequence[Stimulus],
        modalities: tuple[str, ...],
        task: str,
        timestep: float | None,
    ) -> CaptionTokens | None:
        """Return the captions' own tokens, or None, with a warning, where `inputs` does not tell them."""
        names = data_inputs(inputs, self.kinds).get("text", [])
        if not names:
            return None
        drawn = "text" in (self._found_denoised or denoised_modalities(self))
        time = 0.0 if drawn and timestep is not None else timestep  # noise would hide which tokens are the caption's

        def ask(places: Sequence[int], captions: Sequence[str]) -> dict[str, Any]:
            others = [stimuli[place]._replace(text=text) for place, text in zip(places, captions, strict=True)]
            try:
                return self._inputs(others, modalities, task, time)
            except Exception as error:
                raise CannotAsk from error

        found = search_captions(
            ask,
            [stimulus.text for stimulus in stimuli],
            inputs,
            names,
            lambda given, samples: divide_inputs(self.model, given, {"text": names}, samples),
            asked=time != timestep,
        )
        if found is None:
            self._warn_once(
                f"which text tokens of {self.name} are the captions' own cannot be told, for inputs fails or gives the "
                "same tokens for other captions: words of a template are counted as text"
            )
        return found

    def _warn_of_length(self, inputs: Mapping[str, Any]) -> None:
        """Warn of ids that are more than the model has positions."""
        config, ids = getattr(self.model, "config", None), inputs.get("input_ids")
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(ids, Tensor) and ids.ndim == 2 and isinstance(positions, int) and ids.shape[1] > positions > 0:
            self._warn_once(
                f"inputs of {self.name} hold up to {ids.shape[1]} tokens, and its config says {positions} positions: "
                "what it makes of more was not trained. Cut texts in inputs, or show shorter ones"
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=3)

    def _resizes(self, inputs: Mapping[str, Any], modality: str) -> bool:
        """Return whether blocks merge tokens (Swin) or change the size of maps (U-Nets); one pass finds out."""
        if modality not in self._resized:
            counts: list[int] = []

            def count(path: str, stream: str | None, state: Tensor) -> None:
                counts.append(state.numel() // state.shape[1 if state.ndim > 3 else -1])

            reading = capture(self.model, [EMBEDDINGS, *self.blocks], keep=count, stop=False, calls="all")
            with torch.no_grad(), forgetting(self.model), reading:
                self.model(**unchanged(inputs))
            # Words are merged, but they do not become more: that would be several states of each.
            grows = modality == "text" and max(counts) > counts[0]
            alike = all(max(counts) % number == 0 for number in counts)
            self._resized[modality] = len(set(counts)) > 1 and alike and not grows
        return self._resized[modality]


def _as_mask(stream: Stream, positions: Tensor) -> Tensor:
    """Turn positions into a mask (batch, token) where it says the same: a mask fits a state of one size alone."""
    batch, tokens = stream.shape[0], stream.shape[1]
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    if len(stream.shape) != 3 or stream.dim_axis != 2 or len(positions) != batch:
        return positions
    for sample, row in enumerate(positions):
        own = row[row >= 0] - sample * tokens
        if not torch.equal(own, own.sort().values) or (len(own) and not 0 <= own[0] <= own[-1] < tokens):
            return positions
        mask[sample, own] = True
    return mask
