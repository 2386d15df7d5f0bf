"""Join any two models that have a token stream at the layers of a bridge plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...probes.arguments import checked
from ...probes.hooks.attention_calls import AttentionCall
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.single_contexts import single_context
from ..bridges.bridge import KeysValues, Visibility
from ..bridges.registry import BRIDGES, check_plan
from ..towers.attention_masks import SequencePlaces, text_after, visible
from ..towers.tower import Tower
from ..towers.visiting import measure, skipped_block, visiting
from .expert_passes import check_towers
from .lockstep import Meeting, lockstep

Run = Callable[[], Any]


class UnderstandingStates(NamedTuple):
    """What the bridges read of the understanding tower, kept from one pass.

    Attributes
    ----------
    handed : tuple of KeysValues
        The keys and values that the understanding tower offers at each bridge of the plan.
    mask : Tensor or None
        (batch, token), False at padding.
    """

    handed: tuple[KeysValues, ...]
    mask: Tensor | None = None


class Fusion(nn.Module):
    """Two unmodified models, joined at the pairs of a plan; only the bridges are new.

    Parameters
    ----------
    understanding, generation : Tower
        The two models' towers.
    plan : BridgePlan
        A plan of a layout with two towers, for their depths.
    examples : tuple of callable
        One forward pass of each model, from which the widths of states and heads are measured.

    Attributes
    ----------
    plan : BridgePlan
        The plan.
    towers : tuple of Tower
        The understanding and the generation tower.
    bridges : nn.ModuleList
        One bridge for each pair of the plan.
    inside : bool
        Whether the bridges stand inside attention.
    disabled_bridges : set of int
        Bridges that are left out (models/evaluation/link_ablation.py).

    Raises
    ------
    ValueError
        The plan is of one trunk or of other depths, or the towers cannot be bridged in this way.
    TypeError
        The towers are no `Tower`, the plan is no plan, or the examples are no two functions.

    See Also
    --------
    FusedModel : Joins two experts, and brings their passes, training and saving.
    find_tower : Finds the towers of two models.

    Examples
    --------
    >>> fusion = Fusion(find_tower(llava, inputs), find_tower(dit, noisy), plan, (run_llava, run_dit))
    >>> states = fusion.read(lambda: llava(**inputs))                 # one way: once,
    >>> with fusion.reading(states):
    ...     dit(**noisy)                                              # and at every sampling step
    >>> fusion.together(run_llava, run_dit, places)                   # both ways: (result, result)
    """

    understanding: Any
    generation: Any
    bridges: nn.ModuleList

    def __init__(self, understanding: Tower, generation: Tower, plan: BridgePlan, examples: tuple[Run, Run]) -> None:
        super().__init__()
        check_plan(plan)
        check_towers((understanding, generation), examples)
        self.plan, self.towers = plan, (understanding, generation)
        self.understanding, self.generation = understanding.model, generation.model
        depths = (len(understanding.blocks), len(generation.blocks))
        if depths != (plan.understanding_layers, plan.generation_layers):
            names = (type(self.understanding).__name__, type(self.generation).__name__)
            raise ValueError(
                f"the plan is for towers of {plan.understanding_layers} and {plan.generation_layers} blocks, "
                f"{names[0]} and {names[1]} have {depths[0]} and {depths[1]}: choose bridges for these"
            )
        self.requires_grad_(False)
        bridge = BRIDGES[plan.layout]
        self.inside: bool = bridge.inside  # type: ignore[assignment]
        self._kept = self._by_block(0)  # the numbers under which each understanding block's state is kept
        if bridge.reads_all:
            blocks = {block for number in range(len(plan.pairs)) for block in plan.mixed_blocks(number)}
            self._kept = {block: [place] for place, block in enumerate(sorted(blocks))}
        for (u, g), (later, again) in pairwise(plan.pairs):
            if self.inside and not plan.gated and g == again:
                raise ValueError(
                    f"bridges {u}-{g} and {later}-{g} enter the same attention, and without gates the last alone would "
                    "count: plan gated=True, or one bridge for each generation block"
                )
        bridged = list(self._kept), list(self._by_block(1))
        shapes = [
            measure(tower, run, blocks, self.inside)
            for tower, run, blocks in zip(self.towers, examples, bridged, strict=True)
        ]
        for tower, found in zip(self.towers, shapes, strict=True):
            for number, shape in found.items():
                if self.inside and shape.width != shape.heads * shape.head_dim:
                    outside = [name for name, kind in BRIDGES.items() if not kind.inside]
                    raise ValueError(
                        f"block {tower.blocks[number]!r} attends with queries of {shape.head_dim} dims and values of "
                        f"{shape.width // shape.heads}: bridge at block outputs, by a layout such as {outside[0]!r}"
                    )
        if bridge.reads_all and len(widths := {shape.width for shape in shapes[0].values()}) > 1:
            raise ValueError(
                f"the blocks of {type(self.understanding).__name__} that {plan.layout!r} mixes are "
                f"{', '.join(map(str, sorted(widths)))} wide: mix blocks of one width, as taps"
            )
        self._widths = shapes
        self.bridges = self._new_bridges(plan.rank)
        self.disabled_bridges: set[int] = set()

    def _new_bridges(self, rank: int | None) -> nn.ModuleList:
        checked("rank", rank, int | None, least=1)
        kind, plan, (first, second) = BRIDGES[self.plan.layout], self.plan, self._widths
        if not kind.reads_all:
            return nn.ModuleList(kind(first[u], second[g], plan.gated, rank, plan.both_ways) for u, g in plan.pairs)
        options, width = (plan.gated, rank, plan.both_ways), next(iter(first.values()))
        mixed = [[self._kept[block][0] for block in plan.mixed_blocks(number)] for number in range(len(plan.pairs))]
        return nn.ModuleList(
            kind(width, second[g], *options, places) for (_, g), places in zip(plan.pairs, mixed, strict=True)
        )

    def count_parameters(self, rank: int | None) -> int:
        """Return how many parameters the bridges would have at another rank.

        Parameters
        ----------
        rank : int or None
            The rank of the bridges' maps; None is full rank.

        Returns
        -------
        int
            The number of parameters of all bridges.
        """
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self._new_bridges(rank).parameters())

    def read(self, run: Run, mask: Tensor | None = None, places: SequencePlaces | None = None) -> UnderstandingStates:
        """Run the understanding tower once and return what the bridges read.

        Bridges at block outputs that run both ways change the tower's own states, too, as in lockstep with a noisy
        image, which the tower does not see.

        Parameters
        ----------
        run : callable
            One forward pass of the understanding model.
        mask : Tensor, optional
            (batch, token), False at padding. By default the mask that the model is given as (batch, token).
        places : SequencePlaces, optional
            The places of the tokens, for bridges that change the tower's own states. By default they are a text.

        Returns
        -------
        UnderstandingStates
            What `reading` takes.

        Raises
        ------
        RuntimeError
            The run goes through the tower twice.
        ValueError
            No mask is passed, and the model was given one of another form.
        """
        kept: dict[int, tuple[Any, Tensor | None]] = {}
        tower, running = self.towers[0], True
        alone = self.plan.both_ways and not self.inside

        def keep(u: int, numbers: Sequence[int]) -> Callable[[Any], Tensor | None]:
            def visit(own: Any) -> Tensor | None:
                if running and numbers[0] in kept:
                    raise RuntimeError(
                        f"block {tower.blocks[u]!r} ran twice in what is read: run one forward pass, without "
                        "generate() or guidance in two"
                    )
                joined = None
                for number in numbers:
                    kept[number] = own, tower.valid_tokens
                    if alone and number == numbers[0] and number not in self.disabled_bridges:
                        joined = own = self._alone(number, own, places, tower.valid_tokens if mask is None else mask)
                return joined

            return visit

        with visiting(tower, {u: keep(u, numbers) for u, numbers in self._kept.items()}, self.inside):
            run()
            if mask is None and tower.valid_tokens is None and tower.unusable_mask:
                raise ValueError(
                    f"{type(tower.model).__name__} was given {tower.unusable_mask!r} in another form than (batch, "
                    "token), which does not tell what is padding: pass mask, (batch, token), False at padding"
                )
        if skipped := [u for u, numbers in self._kept.items() if numbers[0] not in kept]:
            raise skipped_block(tower, skipped[0])
        running = False  # from now on only gradient checkpointing visits the blocks, to recompute them
        states = [kept[number][0] for number in range(len(kept))]
        return self.offer(states, kept[0][1] if mask is None else mask)

    def offer(self, states: Sequence[Any], mask: Tensor | None) -> UnderstandingStates:
        """Return what the bridges read of the understanding tower's states.

        Parameters
        ----------
        states : sequence of Tensor or AttentionCall
            The states of the blocks `blocks_read`.
        mask : Tensor or None
            (batch, token), False at padding.

        Returns
        -------
        UnderstandingStates
            What `reading` takes.
        """
        kind = BRIDGES[self.plan.layout]
        read = [kind.stack_states(states)] * len(self.bridges) if kind.reads_all else states
        handed = tuple(
            _of_stream(bridge("keys_values", 0, own), own) for bridge, own in zip(self.bridges, read, strict=True)
        )
        return UnderstandingStates(handed, mask)

    @property
    def blocks_read(self) -> tuple[int, ...]:
        """The understanding blocks whose states `offer` takes, in its order: one of each bridge, or all taps."""
        numbers = {number: u for u, found in self._kept.items() for number in found}
        return tuple(numbers[number] for number in range(len(numbers)))

    def _alone(self, number: int, own: Tensor, places: SequencePlaces | None, real: Tensor | None) -> Tensor:
        """Return the understanding tower's tokens (batch, token, dim) after a bridge that sees no others."""
        if places is None:
            places = text_after(own.new_ones(own.shape[:2], dtype=torch.bool) if real is None else real, 0)
        bridge = self.bridges[number]
        mine = bridge("keys_values", 0, own)
        nothing = KeysValues(mine.key[:, :, :0], mine.value[:, :, :0])
        return bridge("attend", 0, own, mine, nothing, Visibility(visible(places, places)))

    @single_context
    def reading(
        self, states: UnderstandingStates, places: tuple[SequencePlaces, SequencePlaces] | None = None
    ) -> Iterator[None]:
        """Let the generation tower read understanding states at its bridged blocks while the context lasts.

        Parameters
        ----------
        states : UnderstandingStates
            What `read` returned.
        places : tuple of SequencePlaces, optional
            The places of both towers' tokens, as in `together`. By default the tower sees all tokens but padding, as an
            image that is denoised does. A generation tower that is causal needs them at bridges outside attention.

        Raises
        ------
        ValueError
            The generation model runs on a batch of another size.
        """
        tower = self.towers[1]

        def join(number: int, own: Any) -> Tensor:
            bridge = self.bridges[number]
            other = states.handed[number]
            self._check_batch(number, own, other)
            if places is None:
                visibility = Visibility(
                    *(None if real is None else real[:, None] for real in (tower.valid_tokens, states.mask))
                )
            else:
                visibility = Visibility(visible(places[1], places[1]), visible(places[1], places[0]))
            return bridge("attend", 1, own, bridge("own_keys_values", 1, own), other, visibility)

        with visiting(tower, self._visits(1, join), self.inside):
            yield

    def together(
        self, understanding: Run, generation: Run, places: tuple[SequencePlaces, SequencePlaces]
    ) -> tuple[Any, Any]:
        """Run both towers in lockstep, each reading the other.

        An understanding block that meets several blocks of the other tower reads the first of them, and all of them
        read it. A generation block reads all that it meets, as one way.

        Parameters
        ----------
        understanding, generation : callable
            One forward pass of each model.
        places : tuple of SequencePlaces
            The places of the understanding tower's tokens and of the generation tower's, which say who sees whom.

        Returns
        -------
        tuple
            The results of the two passes.

        Raises
        ------
        ValueError
            The plan runs one way.
        """
        if not self.plan.both_ways:
            raise ValueError("this plan runs one way: use read and reading, or plan both_ways=True")
        meeting = Meeting()
        visibility = [Visibility(visible(places[s], places[s]), visible(places[s], places[1 - s])) for s in (0, 1)]
        firsts = {min(numbers) for numbers in self._by_block(0).values()}

        def exchange(side: int) -> Callable[[int, Any], Tensor | None]:
            def join(number: int, own: Any) -> Tensor | None:
                bridge = self.bridges[number]
                mine = bridge("keys_values", side, own)
                reads = side == 1 or number in firsts
                other = meeting.exchange(side, number, _of_stream(mine, own), wait=reads)
                if not reads:
                    return None
                self._check_batch(number, own, other)
                return bridge("attend", side, own, mine, other, visibility[side])

            return join

        with (
            visiting(self.towers[0], self._visits(0, exchange(0)), self.inside),
            visiting(self.towers[1], self._visits(1, exchange(1)), self.inside),
        ):
            return lockstep(meeting, understanding, generation)

    def _visits(self, side: int, join: Callable[[int, Any], Tensor | None]) -> Mapping[int, Callable[[Any], Any]]:
        """Return the visits of a side's bridged blocks: their bridges that are not disabled, one after another."""

        def join_all(numbers: Sequence[int]) -> Callable[[Any], Tensor | None]:
            def visit(own: Any) -> Tensor | None:
                joined = None
                for number in numbers:
                    if number in self.disabled_bridges:
                        continue
                    new = join(number, own)
                    if new is not None:
                        joined, own = new, own._replace(own=new) if isinstance(own, AttentionCall) else new
                return joined

            return visit

        return {block: join_all(numbers) for block, numbers in self._by_block(side).items()}

    def _by_block(self, side: int) -> dict[int, list[int]]:
        """Return the bridges of each bridged block of a side."""
        found: dict[int, list[int]] = {}
        for number, pair in enumerate(self.plan.pairs):
            found.setdefault(pair[side], []).append(number)
        return found

    def _check_batch(self, number: int, own: Any, other: KeysValues) -> None:
        """Raise ValueError where a bridge joins batches of unequal size."""
        mine = (own.query if isinstance(own, AttentionCall) else own).shape[0]
        if mine != (theirs := other.key.shape[0]):
            u, g = self.plan.pairs[number]
            raise ValueError(
                f"bridge {u}-{g} joins batches of {mine} and {theirs} samples: give both towers the same samples"
            )


def _of_stream(handed: KeysValues, own: Tensor | AttentionCall) -> KeysValues:
    """Return the keys and values of the bridged stream out of those of all tokens of a block's attention."""
    if not isinstance(own, AttentionCall):
        return handed
    return KeysValues(handed.key[:, :, own.reads], handed.value[:, :, own.reads])
