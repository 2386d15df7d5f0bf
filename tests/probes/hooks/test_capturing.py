"""Capture on a stack small enough to break: the model is left as it was, whatever happened."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.hooks.capturing import EMBEDDINGS, capture


def hooks(model: nn.Module) -> int:
    """Count the hooks on all modules of a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    kinds += ("_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.linear(states)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states)
        return states


@pytest.fixture
def stack() -> Stack:
    torch.manual_seed(0)
    return Stack()


X = torch.ones(2, 3, 4)
ALL = [f"layers.{i}" for i in range(4)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["in a block", "in the context", "in keep"])
def test_nothing_is_left_after_an_error(stack, error, place):
    def fail(*_):
        raise error("stop")

    if place == "in a block":
        stack.layers[2].linear.register_forward_hook(fail)
    before, out = hooks(stack), stack.layers[0](X)
    with pytest.raises(error, match="stop"), capture(stack, ALL, keep=fail if place == "in keep" else None):
        if place == "in the context":
            fail()
        stack(X)
    assert hooks(stack) == before
    assert torch.equal(stack.layers[0](X), out)


def test_later_blocks_never_run(stack):
    def must_not_run(*_):
        raise AssertionError("ran")

    stack.layers[2].forward = must_not_run
    reached = []
    with capture(stack, ["layers.0", "layers.1"]) as taps:
        stack(X)
        reached.append("the line after the model")
    assert not reached
    assert torch.equal(taps["layers.1"], stack.layers[1](stack.layers[0](X)))
    with pytest.raises(AssertionError, match="ran"), capture(stack, ["layers.1"], stop=False):
        stack(X)


def test_without_stopping_the_models_result_is_there(stack):
    with capture(stack, ["layers.1"], stop=False) as taps:
        out = stack(X)
    assert torch.equal(out, stack(X))
    assert torch.equal(stack.layers[3](stack.layers[2](taps["layers.1"])), out)


def test_embeddings_are_what_enters_the_first_block(stack):
    with capture(stack, [EMBEDDINGS, "layers.2"]) as taps:
        stack(X)
    assert torch.equal(taps[EMBEDDINGS], stack.layers[1](stack.layers[0](X)))  # the first block of `layers`
    with capture(stack, [EMBEDDINGS, *ALL]) as taps:
        stack(states=X)
    assert torch.equal(taps[EMBEDDINGS], X)


def test_keep_pools_inside_the_hook(stack):
    alive = []

    def keep(path: str, stream: str | None, state: Tensor) -> list[float]:
        alive.append((path, stream, tuple(state.shape)))
        return state.mean(1).tolist()

    with capture(stack, ALL, keep=keep) as taps:
        stack(X)
    assert alive == [(path, None, (2, 3, 4)) for path in ALL]
    assert taps["layers.3"] == stack(X).mean(1).tolist()


def test_wrong_use_is_refused(stack):
    before = hooks(stack)
    for layers, message in (
        (["layers.7"], r"unknown layer 'layers.7': Stack has the stacks layers \(4 blocks\)"),
        ([EMBEDDINGS], "no block to capture"),
        ([], "no block to capture"),
        (["layers.0", "layers.0"], "named twice"),
    ):
        with pytest.raises(ValueError, match=message), capture(stack, layers):
            pytest.fail("the context was entered")
    with (
        pytest.raises(RuntimeError, match=r"layer 'layers.0' never ran: Stack itself was not called"),
        capture(stack, ALL),
    ):
        pass
    with pytest.raises(RuntimeError, match=r"layer 'layers.0' ran twice"), capture(stack, ALL, stop=False):
        stack(X)
        stack(X)
    assert hooks(stack) == before


def test_a_block_used_twice_in_one_pass(stack):
    stack.layers[3] = stack.layers[0]
    with pytest.raises(RuntimeError, match="ran twice"), capture(stack, ["layers.0", "layers.2"], stop=False):
        stack(X)


def test_a_model_without_a_stack():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with capture(model, ["0", "1"]) as taps:
        model(X)
    assert torch.equal(taps["1"], model(X))
    with pytest.raises(ValueError, match="Sequential has no stack of blocks"), capture(model, ["layers.0"]):
        model(X)


def test_gradients_pass_through(stack):
    with capture(stack, ALL) as taps:
        stack(X)
    taps["layers.3"].sum().backward()
    assert all(p.grad is not None for p in stack.parameters())


def test_streams_that_nothing_tells_apart(stack):
    class Two(nn.Module):
        def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
            return hidden_states + 1, encoder_hidden_states + 2

    stack.two = Two()
    with (
        pytest.raises(ValueError, match=r"'two' has image and text streams of one shape \(2, 3, 4\)"),
        capture(stack, ["two"]),
    ):
        stack.two(X, X)
    assert hooks(stack) == 0


def test_several_calls_are_kept_apart(stack):
    with capture(stack, [EMBEDDINGS, "layers.0", "layers.1"], calls=2) as taps:
        stack(X)
        stack(2 * X)
    assert [len(states) for states in taps.values()] == [2, 2, 2]
    for number, given in enumerate((X, 2 * X)):
        assert torch.equal(taps[EMBEDDINGS][number], given)
        assert torch.equal(taps["layers.1"][number], stack.layers[1](stack.layers[0](given)))
    with pytest.raises(RuntimeError, match=r"'layers.0' ran 1 of 2 times"), capture(stack, ALL, calls=2):
        stack(X)
    with pytest.raises(RuntimeError, match="more than 2 times"), capture(stack, ALL, calls=2, stop=False):
        for _ in range(3):
            stack(X)


def test_a_block_that_changes_its_input_in_place(stack):
    def forward(states: Tensor) -> Tensor:
        return states.add_(1)

    stack.layers[0].forward = forward
    with torch.no_grad(), capture(stack, [EMBEDDINGS, "layers.0"]) as taps:
        stack(X.clone())
    assert torch.equal(taps[EMBEDDINGS], X)
    assert torch.equal(taps["layers.0"], X + 1)


@torch.no_grad()
def test_blocks_that_change_each_others_states_in_place(stack):
    for layer in stack.layers:
        layer.forward = lambda states: states.add_(1)
    with capture(stack, ALL) as taps:
        stack(X.clone())
    for number, path in enumerate(ALL, start=1):
        assert torch.equal(taps[path], X + number)


def test_a_model_that_catches_exceptions_is_stopped_all_the_same(stack):
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = stack

        def forward(self, states: Tensor) -> Tensor:
            try:
                return self.stack(states)
            except Exception:
                return states

    ran = []
    stack.layers[2].register_forward_pre_hook(lambda *_: ran.append(1))
    with capture(Careful(), ["stack.layers.1"]) as taps:
        model = Careful()
        model(X)
    assert not ran
    assert torch.equal(taps["stack.layers.1"], stack.layers[1](stack.layers[0](X)))


def test_what_a_pass_costs_does_not_grow_with_the_square_of_the_blocks(monkeypatch):
    listed: list[int] = []
    plain = nn.Module.named_children

    def named_children(module: nn.Module):
        listed.append(len(module._modules))
        return plain(module)

    monkeypatch.setattr(nn.Module, "named_children", named_children)
    scanned = []
    for blocks in (4, 16):
        model = Stack()
        model.layers = nn.ModuleList(Block() for _ in range(blocks))
        with capture(model, [EMBEDDINGS, *(f"layers.{number}" for number in range(blocks))]):
            model(X)
        scanned.append(sum(listed))
        listed.clear()
    assert scanned[1] <= 4 * scanned[0]
    monkeypatch.setattr(nn.Module, "named_modules", None)  # the recursive walk of torch
    with capture(model, [EMBEDDINGS, "layers.3"]):
        model(X)
    ran: list[int] = []
    model.get_submodule("layers.0.linear").register_forward_hook(lambda *_: ran.append(1))
    with capture(model, [], sites=["layers.0:input"]) as taps:
        model(X)
    assert torch.equal(taps["layers.0:input"], X)
    assert not ran  # it ends in front of the block
