"""Lockstep: two models run side by side, each in its own modes, and meet; neither leaves anything behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bridgework.models.fusion.lockstep import Meeting, lockstep

from ..pairs import LLAVA, LM, OUTSIDE, PAIRS, SD3, Joined, label, tensors, traces

State = dict[str, Any]


def modes() -> State:
    """Every mode that could leak from one tower into the other, or into the caller."""
    return {
        "grad": torch.is_grad_enabled(),
        "forward grad": torch._C._is_fwd_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")],
        "autocast cache": torch.is_autocast_cache_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "saved tensors": torch._C._autograd._top_saved_tensors_default_hooks(False) is not None,
    }


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "function mode": Functions,
    "dispatch mode": Dispatch,
    "saved tensors": lambda: saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
}


# Modes


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_stays_in_its_tower(mode):
    """The leak that was seen: one side pauses inside a mode, the other runs on, and leaves it in another order."""
    meeting, plain = Meeting(), modes()
    seen: dict[str, State] = {}

    def first() -> None:
        with MODES[mode]():
            seen["entered"] = modes()
            meeting.exchange(0, 0, None)
            seen["entered again"] = modes()
            meeting.exchange(0, 1, None)
        seen["left"] = modes()
        meeting.exchange(0, 2, None)

    def second() -> None:
        seen["other"] = modes()
        meeting.exchange(1, 0, None)
        with MODES[mode]():
            meeting.exchange(1, 1, None)
            seen["other entered"] = modes()
            meeting.exchange(1, 2, None)
            seen["other entered again"] = modes()
        seen["other left"] = modes()

    lockstep(meeting, first, second)
    assert modes() == plain
    entered = seen["entered"]
    assert entered != plain
    assert seen["entered again"] == seen["other entered"] == seen["other entered again"] == entered
    assert seen["left"] == seen["other"] == seen["other left"] == plain


@pytest.mark.parametrize("mode", MODES)
def test_both_begin_in_the_callers_modes_and_leave_them(mode):
    meeting = Meeting()

    def side(number: int) -> Callable[[], State]:
        def run() -> State:
            meeting.exchange(number, 0, None)
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                meeting.exchange(number, 1, None)
            return modes()

        return run

    plain = modes()
    with MODES[mode]():
        entered = modes()
        assert lockstep(meeting, side(0), side(1)) == (entered, entered)
        assert modes() == entered
    assert modes() == plain


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_a_mode_leaves_none_of_it(mode, error):
    for failing in (0, 1):
        meeting, ended, plain = Meeting(), [], modes()

        def run(side: int, meeting=meeting, ended=ended, failing=failing) -> None:
            try:
                with MODES[mode]():
                    meeting.exchange(side, 0, None)
                    if side == failing:
                        raise error("here")
                    meeting.exchange(side, 1, None)
            finally:
                ended.append(side)

        with pytest.raises(error, match="here"):
            lockstep(meeting, lambda run=run: run(0), lambda run=run: run(1))
        assert modes() == plain
        assert sorted(ended) == [0, 1]


def test_no_grad_in_one_tower_only():
    joined = Joined((LLAVA, SD3), gate=0.7)
    for model in joined.models:
        model.requires_grad_(True)
    with_both = joined.together()

    @torch.no_grad()
    def frozen() -> Any:
        return joined.sides[0].run()

    first, second = joined.together(frozen)
    assert torch.is_grad_enabled()
    assert not tensors(first).requires_grad
    assert torch.equal(tensors(second), tensors(with_both[1]))
    tensors(second).sum().backward()
    assert all(p.grad is None for p in joined.models[0].parameters())
    assert any(p.grad is not None for p in joined.models[1].parameters())


def test_autocast_in_one_tower_only():
    joined = Joined((LLAVA, SD3))

    def low() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return joined.sides[0].run()

    alone = low(), joined.sides[1].run()
    for one, other in zip(joined.together(low), alone, strict=True):
        assert torch.equal(tensors(one), tensors(other))
    assert tensors(joined.sides[0].run()).shape == tensors(alone[0]).shape
    assert not torch.equal(tensors(joined.sides[0].run()), tensors(alone[0]))


# Two models of the zoo


@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_both_ways_is_the_identity_at_gate_0_and_reaches_both_elsewhere(pair, inside):
    check_both_ways(Joined(pair, inside))


@pytest.mark.parametrize("pair", OUTSIDE, ids=label)
def test_both_ways_at_block_outputs_where_attention_cannot_be_visited(pair):
    check_both_ways(Joined(pair))


def check_both_ways(joined: Joined) -> None:
    with torch.no_grad():
        bare = joined.bare()
        for one, other in zip(joined.together(), bare, strict=True):
            assert torch.equal(tensors(one), tensors(other))
    assert joined.visited == 2 * len(joined.blocks[0]) > 0
    for bridge in joined.bridges.modules():
        if hasattr(bridge, "gate"):
            nn.init.constant_(bridge.gate, 0.7)
    for model in joined.models:
        model.requires_grad_(True)
    for side, output in enumerate(joined.together()):
        assert not torch.equal(tensors(output), tensors(bare[side]))
        other = joined.sides[1 - side].tower
        block = f"{other.blocks[joined.blocks[1 - side][0]]}."
        # Of all parameters: torch 2.13's group norm crashes on the CPU where its input's gradient is not asked for.
        named = dict(other.model.named_parameters())
        loss = tensors(output).square().sum()
        every = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
        reached = [gradient for name, gradient in zip(named, every, strict=True) if name.startswith(block)]
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in reached)
    assert traces(*joined.models) == (0, [])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("inside", [False, True], ids=["outputs", "attention"])
def test_nothing_is_left_behind_wherever_a_tower_fails(inside, error):
    joined, plain = Joined((LM, SD3), inside), modes()
    bare = joined.bare()
    for side, each in enumerate(joined.sides):
        tower = each.tower
        first, last = tower.blocks[joined.blocks[side][0]], tower.blocks[joined.blocks[side][-1]]
        inner = next(
            f"{first}.{name}" for name, m in tower.model.get_submodule(first).named_modules() if name and "proj" in name
        ) if side == 0 else f"{first}.attn.to_q"  # fmt: skip
        for path in (first, inner, last, tower.blocks[-1]):
            for place in ("register_forward_pre_hook", "register_forward_hook"):

                def fail(*args):
                    raise error("here")

                handle = getattr(tower.model.get_submodule(path), place)(fail)
                with pytest.raises(error, match="here"):
                    joined.together()
                handle.remove()
                assert traces(*joined.models) == (0, [])
                assert modes() == plain
    for one, other in zip(joined.together(), bare, strict=True):
        assert torch.equal(tensors(one), tensors(other))


def test_a_caught_exception_does_not_keep_a_tower_alive():
    meeting, caught = Meeting(), []

    def stubborn() -> None:
        for number in range(3):
            try:
                meeting.exchange(0, number, None)
            except BaseException as error:
                caught.append(error)
                raise

    def failing() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        lockstep(meeting, stubborn, failing)
    assert len(caught) == 1


# Meetings


def test_parts_are_exchanged_by_number():
    meeting = Meeting()

    def side(number: int) -> Callable[[], list[str]]:
        return lambda: [meeting.exchange(number, at, f"{number} at {at}") for at in range(3)]

    first, second = lockstep(meeting, side(0), side(1))
    assert first == ["1 at 0", "1 at 1", "1 at 2"]
    assert second == ["0 at 0", "0 at 1", "0 at 2"]
    assert meeting.exchange(0, 1, "again") == "1 at 1"  # as gradient checkpointing asks for it


def test_a_part_can_be_posted_without_waiting():
    meeting, order = Meeting(), []

    def first() -> Tensor:
        got = meeting.exchange(0, 0, "a")
        assert meeting.exchange(0, 1, "b", wait=False) is None
        order.append("first ended")
        return got

    def second() -> list[str]:
        got = [meeting.exchange(1, 0, "c")]
        order.append("second goes on")
        return [*got, meeting.exchange(1, 1, "d")]

    assert lockstep(meeting, first, second) == ("c", ["a", "b"])
    assert sorted(order) == ["first ended", "second goes on"]


@pytest.mark.parametrize("early", [0, 1])
def test_a_tower_that_ends_early_is_named(early):
    meeting, unwound = Meeting(), []

    def run(side: int) -> None:
        meeting.exchange(side, 0, None)
        if side != early:
            try:
                meeting.exchange(side, 7, None)
            finally:
                unwound.append(side)

    name = ("first", "second")[early]
    with pytest.raises(RuntimeError, match=f"the {name} tower ended before meeting 7"):
        lockstep(meeting, lambda: run(0), lambda: run(1))
    assert unwound == [1 - early]


def test_meetings_that_cross_are_refused():
    meeting = Meeting()
    with pytest.raises(RuntimeError, match="waits at meeting 0, the second at 1"):
        lockstep(meeting, lambda: meeting.exchange(0, 0, None), lambda: meeting.exchange(1, 1, None))


def test_meetings_outside_or_twice_are_refused():
    meeting = Meeting()
    with pytest.raises(RuntimeError, match="meeting 3 outside of lockstep"):
        meeting.exchange(0, 3, None)

    def twice() -> None:
        for _ in range(2):
            meeting.exchange(0, 0, None)

    with pytest.raises(RuntimeError, match="came to meeting 0 twice"):
        lockstep(meeting, twice, lambda: meeting.exchange(1, 0, None))
    with pytest.raises(RuntimeError, match="make another Meeting"):
        lockstep(meeting, twice, twice)
