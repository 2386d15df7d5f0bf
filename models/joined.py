"""Two towers joined at the layers of a bridge plan: any two models that have a token stream each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..probes.bridges import BridgePlan
from .bridging import BRIDGES, Handed, Seen
from .lockstep import Meeting, lockstep
from .masks import Places, sees
from .towers import Attended, Tower
from .visiting import measure, visiting

Run = Callable[[], Any]
SIDES = ("understanding", "generation")


class States(NamedTuple):
    """What the understanding tower hands over in one pass: to each bridge, and which of the tokens count."""

    handed: tuple[Handed, ...]
    mask: Tensor | None = None  # (batch, token), False at padding


class Fusion(nn.Module):
    """Two unmodified models, joined at the pairs of `plan`; only the bridges are new.

    >>> fusion = Fusion(find_tower(llava, inputs), find_tower(dit, noisy), plan, (run_llava, run_dit))
    >>> states = fusion.read(lambda: llava(**inputs))                 # one way: once,
    >>> with fusion.reading(states):
    ...     dit(**noisy)                                              # and at every sampling step
    >>> fusion.together(run_llava, run_dit, places)                   # both ways: (result, result)

    Parameters
    ----------
    examples : one forward pass of either model, from which the widths of states and heads are read.

    Raises ValueError for a plan of one trunk or of other depths, and for towers that cannot be bridged so.
    """

    understanding: Any
    generation: Any
    bridges: nn.ModuleList

    def __init__(self, understanding: Tower, generation: Tower, plan: BridgePlan, examples: tuple[Run, Run]) -> None:
        super().__init__()
        if plan.layout not in BRIDGES:
            raise ValueError(
                f"the layout {plan.layout!r} has one trunk and no bridges: build a UnifiedModel, "
                f"or plan one of {', '.join(BRIDGES)}"
            )
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
        shapes = [
            measure(tower, run, sorted({pair[side] for pair in plan.pairs}), self.inside)
            for side, (tower, run) in enumerate(zip(self.towers, examples, strict=True))
        ]
        self.bridges = nn.ModuleList(
            bridge(shapes[0][u], shapes[1][g], plan.gated, plan.rank, plan.both_ways) for u, g in plan.pairs
        )
        self.silent: set[int] = set()  # bridges that hand nothing over (models/ablation.py)

    def read(self, run: Run, mask: Tensor | None = None) -> States:
        """Run the understanding tower once and keep what the bridges read.

        mask : (batch, token), False at padding; left out, the one that the model is given.
        """
        kept: dict[int, tuple[Any, Tensor | None]] = {}
        tower = self.towers[0]

        def keep(block: int) -> Callable[[Any], None]:
            def visit(own: Any) -> None:
                kept[block] = own, tower.real

            return visit

        with visiting(tower, {u: keep(u) for u, _ in self.plan.pairs}, self.inside):
            run()
        handed = tuple(_of_stream(bridge("hand", 0, kept[u][0]), kept[u][0]) for bridge, (u, _) in self._pairs())
        return States(handed, kept[self.plan.pairs[0][0]][1] if mask is None else mask)

    @contextmanager
    def reading(self, states: States) -> Iterator[None]:
        """While the context lasts, the generation tower reads `states` at its bridged blocks.

        Raises ValueError where its batch is of another size.
        """
        seen = Seen(other=None if states.mask is None else states.mask[:, None])

        def join(number: int, own: Any) -> Tensor:
            bridge = self.bridges[number]
            other = states.handed[number]
            self._check_batch(number, own, other)
            return bridge("join", 1, own, bridge("hand", 1, own), other, seen)

        with visiting(self.towers[1], self._visits(1, join), self.inside):
            yield

    def together(self, understanding: Run, generation: Run, places: tuple[Places, Places]) -> tuple[Any, Any]:
        """Run both towers in lockstep; each reads the other as `places` (of its stream's tokens) allow.

        A block that meets several of the other tower reads the first of them, and is read by all.

        Raises ValueError for a plan that runs one way.
        """
        if not self.plan.both_ways:
            raise ValueError("this plan runs one way: use read and reading, or plan both_ways=True")
        meeting = Meeting()
        seen = [Seen(sees(places[s], places[s]), sees(places[s], places[1 - s])) for s in (0, 1)]
        firsts = [{min(numbers) for numbers in self._at(side).values()} for side in (0, 1)]

        def exchange(side: int) -> Callable[[int, Any], Tensor | None]:
            def join(number: int, own: Any) -> Tensor | None:
                bridge = self.bridges[number]
                mine = bridge("hand", side, own)
                first = number in firsts[side]
                other = meeting.exchange(side, number, _of_stream(mine, own), wait=first)
                if not first:
                    return None
                self._check_batch(number, own, other)
                return bridge("join", side, own, mine, other, seen[side])

            return join

        with (
            visiting(self.towers[0], self._visits(0, exchange(0)), self.inside),
            visiting(self.towers[1], self._visits(1, exchange(1)), self.inside),
        ):
            return lockstep(meeting, understanding, generation)

    def _visits(self, side: int, join: Callable[[int, Any], Tensor | None]) -> Mapping[int, Callable[[Any], Any]]:
        """What happens at each bridged block of a side: its bridges that are not silent, one after another."""

        def at(numbers: Sequence[int]) -> Callable[[Any], Tensor | None]:
            def visit(own: Any) -> Tensor | None:
                joined = None
                for number in numbers:
                    if number in self.silent:
                        continue
                    new = join(number, own)
                    if new is not None:
                        joined, own = new, own._replace(own=new) if isinstance(own, Attended) else new
                return joined

            return visit

        return {block: at(numbers) for block, numbers in self._at(side).items()}

    def _at(self, side: int) -> dict[int, list[int]]:
        """The bridges at each bridged block of a side."""
        found: dict[int, list[int]] = {}
        for number, pair in enumerate(self.plan.pairs):
            found.setdefault(pair[side], []).append(number)
        return found

    def _pairs(self) -> Iterator[tuple[Any, tuple[int, int]]]:
        return zip(self.bridges, self.plan.pairs, strict=True)

    def _check_batch(self, number: int, own: Any, other: Handed) -> None:
        mine = (own.query if isinstance(own, Attended) else own).shape[0]
        if mine != (theirs := other.key.shape[0]):
            u, g = self.plan.pairs[number]
            raise ValueError(
                f"bridge {u}-{g} joins batches of {mine} and {theirs} samples: give both towers the same samples"
            )


def _of_stream(handed: Handed, own: Tensor | Attended) -> Handed:
    """Of all tokens of a block's attention, those of the stream that is bridged."""
    if not isinstance(own, Attended):
        return handed
    return Handed(*(each[:, :, own.reads] for each in handed))
