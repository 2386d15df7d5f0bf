"""Blocks that return several tensors of one shape: the hidden state is what the next block is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.hooks.capturing import EMBEDDINGS, capture

DIM = 6
X = torch.rand(2, 5, DIM, generator=torch.Generator().manual_seed(1))


class Routed(nn.Module):
    """Returns the logits of as many experts as dims in front of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.linear = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.router(states), states + self.linear(states).tanh()


class Model(nn.Module):
    """Hands on one of two outputs, as `hand` says."""

    def __init__(self, hand: Callable[[Any], Tensor], block: type[nn.Module] = Routed, depth: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(block() for _ in range(depth))
        self.norm, self.head, self.hand = nn.LayerNorm(DIM), nn.Linear(DIM, 9), hand

    def forward(self, states: Tensor) -> Tensor:
        self.truth: list[Tensor] = []
        for layer in self.layers:
            output = layer(states)
            self.truth.append(output["state"].clone() if isinstance(output, dict) else output[1].clone())
            states = self.hand(output)
        return self.head(self.norm(states))


class InDict(Routed):
    def forward(self, states: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits, state = super().forward(states)
        return {"logits": logits, "state": state}


class InPlace(Routed):
    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.router(states)
        return logits, states.add_(self.linear(states))


class Attending(Routed):
    """Returns attention weights as wide as the states are: five tokens, five dims would do it."""

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        weights = (states @ states.mT).softmax(-1)
        return torch.cat((weights, weights[..., :1]), -1), states + self.linear(weights @ states)


NORM = nn.LayerNorm(DIM)
HANDED: dict[str, tuple[Callable[[Any], Tensor], type[nn.Module]]] = {
    "itself": (lambda output: output[1], Routed),
    "a view": (lambda output: output[1].view(1, 10, DIM).view(2, 5, DIM), Routed),
    "a detached copy": (lambda output: output[1].detach().clone(), Routed),
    "a normed copy": (lambda output: NORM(output[1]) * 2, Routed),
    "changed in place between": (lambda output: output[1].add_(1), Routed),
    "out of a dict": (lambda output: output["state"], InDict),
    "of a block that works in place": (lambda output: output[1], InPlace),
    "beside attention weights": (lambda output: output[1], Attending),
}


@torch.no_grad()
@pytest.mark.parametrize("layers", [[0, 1, 2], [1], [2]])
@pytest.mark.parametrize("way", HANDED)
def test_the_state_is_what_the_next_block_is_given(way, layers):
    model = Model(*HANDED[way])
    paths = [f"layers.{number}" for number in layers]
    model(X.clone())
    truth = model.truth
    with capture(model, [EMBEDDINGS, *paths]) as taps:
        model(X.clone())
    for number, path in zip(layers, paths, strict=True):
        assert torch.equal(taps[path], truth[number]), path
    if layers[0] == 0:
        assert torch.equal(taps[EMBEDDINGS], X)


@torch.no_grad()
def test_a_single_block_is_read_by_what_its_head_is_given():
    model = Model(HANDED["itself"][0], depth=1)
    with capture(model, ["layers.0"]) as taps:
        model(X)
    assert torch.equal(taps["layers.0"], model.layers[0](X)[1])
    model.norm.forward = lambda states: states + 0 * model.layers[0].linear(states)  # type: ignore[method-assign]
    model.hand = lambda output: output[0] * output[1]
    with (
        pytest.raises(ValueError, match=r"'layers.0' returned a tuple.*mixer output and residual"),
        capture(model, ["layers.0"]),
    ):
        model(X)


class Mixer(nn.Module):
    """As in Mamba's fused add and norm: the residual is added at the start of the next block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(DIM), nn.Linear(DIM, DIM)

    def forward(self, hidden_states: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        residual = hidden_states if residual is None else hidden_states + residual
        return self.mixer(self.norm(residual)), residual


class Fused(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.form = nn.ModuleList(Mixer() for _ in range(3)), form
        self.norm = nn.LayerNorm(DIM)

    def forward(self, states: Tensor) -> Tensor:
        self.truth: list[Tensor] = []
        residual: Tensor | None = None
        for layer in self.layers:
            states, residual = layer(states, residual)
            self.truth.append(states + residual)
            if self.form == "summed":
                states, residual = states + residual, None
            if self.form == "scaled":
                states, residual = states + 0.5 * residual, None
        return self.norm(states if residual is None else states + residual)


@torch.no_grad()
@pytest.mark.parametrize("layers", [[0, 1, 2], [1, 2], [2]])
@pytest.mark.parametrize("form", ["fused", "summed"])
def test_a_mixer_output_and_its_residual_are_summed(form, layers):
    model = Fused(form)
    paths = [f"layers.{number}" for number in layers]
    model(X.clone())
    truth = model.truth
    with capture(model, [EMBEDDINGS, *paths]) as taps:
        model(X)
    for number, path in zip(layers, paths, strict=True):
        assert torch.allclose(taps[path], truth[number], atol=1e-6)
    before = [X, *truth][layers[0]]
    assert torch.allclose(taps[EMBEDDINGS], before, atol=1e-6)


def test_a_residual_that_is_scaled_is_refused():
    with (
        pytest.raises(ValueError, match=r"block 'layers.0' returned several outputs.*residual"),
        capture(model := Fused("scaled"), ["layers.0", "layers.1"]),
    ):
        model(X)
