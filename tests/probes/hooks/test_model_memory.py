"""Models that remember earlier passes: each pass begins as the first one did."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks import model_memory
from bridgework.probes.hooks.model_memory import forgetting
from bridgework.tests.probes.toys import DIM, Stack, Toy, letters

STIMULI = letters("a", "bc", "def")
REMEMBERED: dict[str, Any] = {"calls": 0}  # a cache in a global


class Deep(Stack):
    """As in DeepCache: every second call keeps what the inner blocks gave before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.kept = 0, torch.zeros(())

    def forward(self, states: Tensor) -> Tensor:
        states = self.layers[0](states)
        if self.calls % 2 == 0 or self.kept.shape != states.shape:
            self.kept = self.layers[1](states)
        else:
            self.layers[1](states)
        self.calls += 1
        return self.head(self.layers[2](states + self.kept))


class Skipping(Deep):
    """The blocks themselves are left out."""

    def forward(self, states: Tensor) -> Tensor:
        if self.calls % 2 == 0:
            for layer in self.layers:
                states = layer(states)
            self.kept = states
        self.calls += 1
        return self.head(self.kept)


class Tea(Stack):
    """As in TeaCache: the class holds the counter and the residual of the step before."""

    count = 0
    previous: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        cls, before = type(self), states
        states = self.layers[0](states)
        if cls.previous is not None and cls.previous.shape == states.shape and cls.count % 2:
            states = states + cls.previous
        else:
            cls.previous = states - before
        cls.count += 1
        return self.head(self.layers[2](self.layers[1](states)))


class Taylor(Stack):
    """As in TaylorSeer: an object keeps derivatives of several steps."""

    class Steps:
        def __init__(self) -> None:
            self.step, self.orders, self.last = 0, {"layer": [torch.zeros(())]}, deque(maxlen=2)

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.Steps()

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states)
            if self.steps.step % 4 and self.steps.orders["layer"][-1].shape == states.shape:
                states = states + self.steps.orders["layer"][-1]
            self.steps.orders["layer"].append(0.1 * states)
            self.steps.last.append(states)
            self.steps.step += 1
        return self.head(states)


class Streaming(Stack):
    """A buffer is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(DIM), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        states = self.layers[0](states + self.memory)
        self.memory += states.mean((0, 1))
        return self.head(self.layers[2](self.layers[1](states)))


class InGlobal(Stack):
    def forward(self, states: Tensor) -> Tensor:
        REMEMBERED["calls"] += 1
        return super().forward(states * REMEMBERED["calls"])


def in_closure() -> Stack:
    model, calls = Stack(), 0
    plain = model.forward

    def forward(states: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(states * calls)

    model.forward = forward  # type: ignore[method-assign]
    return model


MODELS: dict[str, Any] = {
    "deep": Deep,
    "skipping": Skipping,
    "tea": Tea,
    "taylor": Taylor,
    "streaming": Streaming,
    "global": InGlobal,
    "closure": in_closure,
}


@pytest.mark.parametrize("name", MODELS)
def test_two_timesteps_are_as_in_two_processes(name):
    def subject() -> Toy:
        torch.manual_seed(0)
        return Toy(MODELS[name](), timed_tasks=("understanding",), modalities=("image",))

    both = extract(subject(), STIMULI, timesteps=(0.2, 0.9), batch_size=2)["image"]
    for time in (0.2, 0.9):
        alone = extract(subject(), STIMULI, timesteps=(time,), batch_size=2)["image"]
        assert torch.equal(both.at(time).values, alone.values)
    assert REMEMBERED == {"calls": 0}


def test_what_cannot_be_put_back_is_refused(monkeypatch):
    model = Streaming()
    monkeypatch.setattr(model_memory, "LARGEST", 0)
    with pytest.raises(RuntimeError, match=r"a pass changes Streaming.memory of Streaming in place"), forgetting(model):
        model(torch.ones(1, 2, DIM))
    learning = Stack()
    with (
        pytest.raises(RuntimeError, match=r"a parameter of 'head' of Stack in place"),
        forgetting(learning),
        torch.no_grad(),
    ):
        learning.head.weight.add_(1)


def test_a_model_that_remembers_nothing_is_no_longer_looked_at(monkeypatch):
    model = Stack()
    looked = []
    real = model_memory._Snapshot
    monkeypatch.setattr(model_memory, "_Snapshot", lambda model: looked.append(1) or real(model))
    for _ in range(5):
        with forgetting(model):
            model(torch.ones(1, 2, DIM))
    assert len(looked) == model_memory.ENOUGH


def test_modules_that_are_made_at_the_first_pass_stay():
    model = nn.Sequential(nn.LazyLinear(3))
    with forgetting(model):
        model(torch.ones(2, 4))
    assert isinstance(model[0], nn.Linear) and model[0].in_features == 4
