"""Attribution, on subjects small enough to compute by hand: whatever layout, streams and tokens their states have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bridgework.probes.evidence.attribution import METHODS, attribute
from bridgework.probes.evidence.replay import Replay
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.subject import ForwardPass

DIM, IMAGE, TEXT = 4, 4, 2
LETTERS = ("ab", "cd", "ef", "gh")


class Block(nn.Module):
    """Mixes neighbouring tokens: (..., token, dim); linear, or bent."""

    def __init__(self, bent: bool) -> None:
        super().__init__()
        self.linear, self.bent = nn.Linear(DIM, DIM), bent

    def forward(self, states: Tensor) -> Tensor:
        mixed = states + 0.5 * self.linear(states) + 0.25 * states.mean(-2, keepdim=True)
        return mixed + (2 * mixed).tanh() if self.bent else mixed


class Stack(nn.Module):
    def __init__(self, bent: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(bent) for _ in range(2))
        self.head = nn.Linear(DIM, 1)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, token, dim) to (batch,)."""
        for layer in self.layers:
            states = layer(states)
        return self.head(states).sum((1, 2))


class Packed(Stack):
    """The same model over states (token, dim) of all samples, one after the other."""

    def forward(self, states: Tensor) -> Tensor:
        packed = states.flatten(0, 1)
        for layer in self.layers:
            packed = layer(packed.unflatten(0, states.shape[:2])).flatten(0, 1) if self.fenced else layer(packed)
        return self.head(packed).unflatten(0, states.shape[:2]).sum((1, 2))

    fenced = True


class BatchSecond(Stack):
    """Blocks see (token, batch, dim)."""

    class Turned(Block):
        def forward(self, states: Tensor) -> Tensor:
            return super().forward(states.transpose(0, 1)).transpose(0, 1)

    def __init__(self) -> None:
        super().__init__()
        turned = nn.ModuleList(self.Turned(False) for _ in range(2))
        turned.load_state_dict(self.layers.state_dict())
        self.layers = turned

    def forward(self, states: Tensor) -> Tensor:
        states = states.transpose(0, 1)
        for layer in self.layers:
            states = layer(states)
        return self.head(states.transpose(0, 1)).sum((1, 2))


class Dual(nn.Module):
    """Two streams, returned as (text, image); the last block returns (None, image), as SD3's does."""

    class Block(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.image, self.text, self.last = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), last

        def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor | None, Tensor]:
            image = hidden_states + self.image(hidden_states) + encoder_hidden_states.mean(1, keepdim=True)
            text = encoder_hidden_states + self.text(encoder_hidden_states) + hidden_states.mean(1, keepdim=True)
            return None if self.last else text, image

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Block(last) for last in (False, True))
        self.head = nn.Linear(DIM, 1)

    def forward(self, states: Tensor) -> Tensor:
        image, text = states[:, :IMAGE], states[:, IMAGE:]
        for layer in self.layers:
            text, image = layer(hidden_states=image, encoder_hidden_states=text)
        return self.head(image).sum((1, 2))


@dataclass
class Toy:
    """Four pixels, then two letters, then a closing token of its own; one token each."""

    model: Any
    layout: str = "mask"
    name: str = "toy"
    blocks: tuple[str, ...] = ("layers.0", "layers.1")
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ()
    batches: list[int] = field(default_factory=list)

    def states(self, stimuli: Sequence[Stimulus]) -> Tensor:
        image = torch.stack([torch.tensor(np.asarray(s.image)).float()[0] / 255 for s in stimuli])  # (batch, token, 3)
        letters = torch.tensor([[ord(letter) % 7 for letter in s.text] for s in stimuli]).float()
        scale = torch.linspace(-1, 1, DIM)
        closing = torch.ones(len(stimuli), 1, DIM)
        return torch.cat([nn.functional.pad(image, (0, 1)), letters[..., None] * scale, closing], 1)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        self.batches.append(len(stimuli))
        states = self.states(stimuli)
        batch, total = states.shape[:2]
        at = torch.arange(total).expand(batch, -1)
        masks: dict[str, Any] = {"image": at < IMAGE, "text": (at >= IMAGE) & (at < IMAGE + TEXT)}
        streams: dict[str, str | None] = {}
        if self.layout == "packed":
            start = torch.arange(batch)[:, None] * total
            masks = {"image": start + torch.arange(IMAGE), "text": start + IMAGE + torch.arange(TEXT)}
        elif self.layout == "batch second":
            masks = {"image": torch.arange(IMAGE) * batch + torch.arange(batch)[:, None],
                     "text": (IMAGE + torch.arange(TEXT)) * batch + torch.arange(batch)[:, None]}  # fmt: skip
        elif self.layout == "dual":
            masks = {"image": None, "text": torch.tensor([[True, True, False]]).expand(batch, -1)}
            streams = {"image": "image", "text": "text"}
        return ForwardPass(lambda: self.model(states), masks, streams)


def make(kind: str) -> Toy:
    torch.manual_seed(0)
    if kind == "dual":
        return Toy(Dual(), "dual")
    return Toy({"mask": Stack, "packed": Packed, "batch second": BatchSecond}[kind](), kind)


@pytest.fixture
def stimuli() -> Stimuli:
    images = np.random.default_rng(0).integers(0, 256, (4, 1, IMAGE, 3), dtype=np.uint8)
    return Stimuli([Stimulus(Image.fromarray(i), t, f"id {t}") for i, t in zip(images, LETTERS, strict=True)], "toys")


def weight(stimuli: Sequence[Stimulus]) -> Tensor:
    return torch.tensor([1.0 + LETTERS.index(s.text) for s in stimuli])


def whole(result: Tensor, stimuli: Sequence[Stimulus], shown: ForwardPass) -> Tensor:
    """Another weight for each stimulus: over a linear model of them, the gains from their mean would cancel out."""
    return result * weight(stimuli)


def run(toy: Toy, stimuli: Stimuli, method: str, steps: int = 8, **options: Any) -> Any:
    return attribute(toy, stimuli, options.pop("output", whole), method=method, steps=steps, device="cpu", **options)


def at(table: Any, layer: str, modality: str) -> Any:
    return table[(table["layer"] == layer) & (table["modality"] == modality)].iloc[0]


LAYOUTS = ("mask", "packed", "batch second", "dual")


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("method", ["conductance", "integrated_gradients"])
def test_layers_of_a_linear_model_sum_to_the_gain_exactly(kind, method, stimuli):
    toy = make(kind)
    table = run(toy, stimuli, method, steps=3)
    states = toy.states(list(stimuli))
    baseline = states.clone()
    baseline[:, :IMAGE] = states[:, :IMAGE].mean((0, 1))
    baseline[:, IMAGE : IMAGE + TEXT] = states[:, IMAGE : IMAGE + TEXT].mean((0, 1))
    with torch.no_grad():
        gains = (toy.model(states) - toy.model(baseline)) * weight(list(stimuli))
    assert abs(gains.mean()) > 1e-2
    assert table["error"].max() < 1e-5
    assert table["gain"].to_numpy() == pytest.approx(gains.mean().item(), abs=1e-5)
    sums = table.groupby("layer")["attribution"].sum()
    assert sums.to_numpy() == pytest.approx(gains.mean().item(), abs=1e-5)
    assert (table["samples"] == 4).all()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_embeddings_of_a_linear_model_have_the_gradient_times_the_change(kind, stimuli):
    toy = make(kind)
    table = run(toy, stimuli, "integrated_gradients", steps=2)
    states = toy.states(list(stimuli)).requires_grad_()
    gradient = torch.autograd.grad((toy.model(states) * weight(list(stimuli))).sum(), states)[0]
    for modality, tokens in (("image", slice(IMAGE)), ("text", slice(IMAGE, IMAGE + TEXT))):
        change = states[:, tokens] - states[:, tokens].mean((0, 1))
        expected = (gradient[:, tokens] * change).sum().item() / 4
        assert at(table, "embeddings", modality).attribution == pytest.approx(expected, abs=1e-5)
        assert abs(expected) > 1e-3
    assert at(table, "embeddings", "other").attribution == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["conductance", "integrated_gradients"])
def test_a_bent_model_is_complete_up_to_the_steps(method, stimuli):
    torch.manual_seed(0)
    toy = Toy(Stack(bent=True))
    coarse, fine = (run(toy, stimuli, method, steps=steps)["error"].max() for steps in (4, 64))
    assert fine < 2e-3
    assert fine < coarse / 10


def test_conductance_is_the_path_integral_computed_by_hand(stimuli):
    torch.manual_seed(0)
    toy = Toy(Stack(bent=True))
    table = run(toy, stimuli[:1], "conductance", steps=128)
    states = toy.states(list(stimuli[:1]))
    baseline = states.clone()
    baseline[:, :IMAGE] = states[:, :IMAGE].mean((0, 1))
    baseline[:, IMAGE : IMAGE + TEXT] = states[:, IMAGE : IMAGE + TEXT].mean((0, 1))
    points = torch.linspace(0, 1, 2001, dtype=torch.float32)
    with torch.no_grad():
        hidden = toy.model.layers[0](baseline + points[:, None, None] * (states - baseline))
    hidden.requires_grad_()
    out = toy.model.head(toy.model.layers[1](hidden)).sum()
    gradient = torch.autograd.grad(out, hidden)[0]
    change = (hidden[1:] - hidden[:-1]).detach()
    each = ((gradient[1:] + gradient[:-1]) / 2 * change).sum((0, 2))  # (token,)
    assert at(table, "0", "image").attribution == pytest.approx(each[:IMAGE].sum().item(), abs=1e-3)
    assert at(table, "0", "text").attribution == pytest.approx(each[IMAGE : IMAGE + TEXT].sum().item(), abs=1e-3)
    assert at(table, "0", "other").attribution == pytest.approx(each[-1].item(), abs=1e-3)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_ablation_is_the_output_without_a_modality(kind, stimuli):
    toy = make(kind)
    table = run(toy, stimuli, "ablation")
    states = toy.states(list(stimuli))
    for modality, tokens in (("image", slice(IMAGE)), ("text", slice(IMAGE, IMAGE + TEXT))):
        without = states.clone()
        without[:, tokens] = states[:, tokens].mean((0, 1))
        with torch.no_grad():
            lost = (toy.model(states) - toy.model(without)) * weight(list(stimuli))
        row = at(table, "embeddings", modality)
        assert row.attribution == pytest.approx(lost.mean().item(), abs=1e-5)
        spread = 3.182446 * lost.std().item() / 2  # Student's t with 3 degrees of freedom
        assert row.high - row.attribution == pytest.approx(spread, rel=1e-4)
    assert set(table["modality"]) == {"image", "text"}
    assert table["error"].isna().all()


def test_ablation_of_a_layer_uses_the_layers_own_mean(stimuli):
    toy = make("mask")
    table = run(toy, stimuli, "ablation")
    with torch.no_grad():
        first = toy.model.layers[0](toy.states(list(stimuli)))
        without = first.clone()
        without[:, :IMAGE] = first[:, :IMAGE].mean((0, 1))
        read = [toy.model.head(toy.model.layers[1](each)).sum((1, 2)) for each in (first, without)]
        lost = (read[0] - read[1]) * weight(list(stimuli))
    assert at(table, "0", "image").attribution == pytest.approx(lost.mean().item(), abs=1e-5)


def test_the_last_layer_of_a_dual_stream_model_has_no_text(stimuli):
    table = run(make("dual"), stimuli, "conductance", steps=2)
    assert set(table[table["layer"] == "0"]["modality"]) == {"image", "text", "other"}
    assert set(table[table["layer"] == "1"]["modality"]) == {"image", "other"}


@pytest.mark.parametrize("method", METHODS)
def test_steps_run_a_few_at_once(method, stimuli):
    toy = make("mask")
    together = run(toy, stimuli, method, steps=8, batch_size=20)
    toy.batches.clear()
    apart = run(toy, stimuli, method, steps=8, batch_size=3)
    assert max(toy.batches) <= 3
    assert apart["attribution"].to_numpy() == pytest.approx(together["attribution"].to_numpy(), abs=1e-5)


def test_columns_and_depths(stimuli):
    table = run(make("mask"), stimuli, "conductance", steps=2)
    assert table.columns.tolist() == [
        "subject", "task", "timestep", "modality", "layer", "depth", "method",
        "attribution", "low", "high", "share", "gain", "error", "samples",
    ]  # fmt: skip
    assert table.groupby("layer", sort=False)["depth"].first().to_dict() == {"embeddings": 0.0, "0": 0.5, "1": 1.0}
    assert table.groupby("layer")["share"].sum().to_numpy() == pytest.approx(1, abs=1e-4)
    assert set(table["task"]) == {"understanding"}


@pytest.mark.parametrize("kind", ["mask", "dual"])
def test_replaying_its_own_states_is_the_pass_itself_and_leaves_nothing(kind, stimuli):
    toy = make(kind)
    states = toy.states([stimuli[0]])
    with torch.no_grad():
        expected = toy.model(states) * weight([stimuli[0]])
        replay = Replay(toy, stimuli[0], whole, "understanding")
        assert torch.equal(replay(*replay.inputs), expected)
        three = replay(*(state.expand(3, *state.shape[1:]) for state in replay.inputs))
        torch.testing.assert_close(three, expected.expand(3))

    def stop(result: Tensor, stimuli: Sequence[Stimulus], shown: ForwardPass) -> Tensor:
        raise KeyboardInterrupt

    replay.output = stop
    with pytest.raises(KeyboardInterrupt):
        replay(*replay.inputs)
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in toy.model.modules())


def test_what_is_wrong_is_named(stimuli):
    toy = make("mask")
    with pytest.raises(ValueError, match="unknown method 'saliency'"):
        run(toy, stimuli, "saliency")
    with pytest.raises(ValueError, match="batch_size is 1: expected a whole number of at least 2"):
        run(toy, stimuli, "conductance", batch_size=1)
    with pytest.raises(ValueError, match="unknown task 'generation'"):
        run(toy, stimuli, "conductance", task="generation")
    with pytest.raises(ValueError, match="takes no timestep"):
        run(toy, stimuli, "conductance", timestep=0.5)
    with pytest.raises(ValueError, match="expected one number a sample"):
        run(toy, stimuli, "conductance", output=lambda result, given, shown: result.sum())


class Seen(nn.Module):
    """The same model, called with the two inputs that it is made of."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, pixels: Tensor, letters: Tensor) -> Tensor:
        closing = torch.ones(len(pixels), 1, DIM)
        return self.stack(torch.cat([pixels, letters, closing], 1))


@pytest.mark.parametrize("method", METHODS)
def test_any_model_is_attributed_to_as_the_model_described_by_hand(method, stimuli):
    toy = make("mask")

    def inputs(shown: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        states = toy.states(shown)
        return {"pixels": states[:, :IMAGE], "letters": states[:, IMAGE : IMAGE + TEXT]}

    subject = AnyModel(Seen(toy.model), inputs, kinds={"letters": "text"})
    found, expected = run(subject, stimuli, method), run(toy, stimuli, method)
    assert found["modality"].tolist() == expected["modality"].tolist()
    assert found["attribution"].to_numpy() == pytest.approx(expected["attribution"].to_numpy(), abs=1e-5)
