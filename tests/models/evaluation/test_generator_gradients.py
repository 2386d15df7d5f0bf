"""Descent is the gradient worked out by hand, finds the layer that a block needs, and leaves the generator alone."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bridgework.models.evaluation.generator_gradients import block_gradients, descent_map, training_noise
from bridgework.models.fusion.expert_passes import expert_tower, noise_pass
from bridgework.models.generation.flow import MIN_TIME, add_noise, velocity_loss
from bridgework.models.towers.visiting import visiting
from bridgework.probes.evidence.descent import explained_map
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.plans.evidence_files import read_evidence
from bridgework.probes.stimuli.images import to_pixels
from bridgework.probes.stimuli.stimulus_set import Stimuli

SIDE, DIM, COUNT = 4, 6, 80
COLOURS = np.random.default_rng(0).integers(0, 256, (COUNT, 3), dtype=np.uint8)
PICTURES = Stimuli(
    [(Image.new("RGB", (SIDE, SIDE), tuple(map(int, c))), f"colour {n}", f"c{n}") for n, c in enumerate(COLOURS)],
    "colours",
)


class LinearBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(DIM, DIM)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.map(hidden_states)


class TwoLinearBlocks(nn.Module):
    """Pixels as tokens, a linear map into the blocks, two linear blocks, a linear map back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(3, DIM), nn.Linear(DIM, 3)
        self.blocks = nn.ModuleList([LinearBlock(), LinearBlock()])

    @property
    def device(self) -> torch.device:
        return self.enter.weight.device

    def forward(self, sample: Tensor) -> Tensor:
        state = self.enter(sample.flatten(2).transpose(1, 2).to(self.enter.weight.dtype))
        for block in self.blocks:
            state = block(state)
        return self.leave(state).transpose(1, 2).view_as(sample)


class LinearExpert:
    name, size, blocks = "two linear blocks", (3, SIDE, SIDE), ("blocks.0", "blocks.1")

    def __init__(self) -> None:
        self.model = TwoLinearBlocks().double().eval()
        self.device = self.model.device

    def encode(self, texts: list[str]) -> Tensor:
        return torch.zeros(len(texts), 1, 2)

    def predict(self, noisy: Tensor, text: Tensor, time: Tensor) -> Tensor:
        return self.model(sample=noisy)


@pytest.fixture
def linear() -> LinearExpert:
    return LinearExpert()


def text_states(*layers: Any, samples: tuple[str, ...] = PICTURES.ids) -> LayerFeatures:
    values = torch.tensor(np.stack(layers), dtype=torch.float32)
    names, depths = [str(n) for n in range(len(layers))], [(n + 1) / len(layers) for n in range(len(layers))]
    digests = dict(zip(PICTURES.ids, PICTURES.digests, strict=True))
    labels = ("text", "vlm", "understanding", "separate", "mean", ())
    return LayerFeatures(values, names, depths, *labels, samples, digests=digests)  # type: ignore[arg-type]


def unrelated(seed: int = 0, count: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).standard_normal((count, COUNT, 8)))


COLOUR_LAYER = (COLOURS / 127.5 - 1) @ np.random.default_rng(1).standard_normal((3, 8))


def by_hand(expert: LinearExpert, draws: int) -> tuple[np.ndarray, list[float]]:
    """Gradients (block, sample, dim) and sizes of both blocks, in float64, by the chain rule."""
    weights = {name: p.detach().numpy() for name, p in expert.model.named_parameters()}
    clean = to_pixels([s.image for s in PICTURES], SIDE)
    found, squares = np.zeros((2, COUNT, DIM)), np.zeros(2)
    for draw in range(draws):
        noise, times = training_noise(PICTURES.ids, expert.size, draw, draws)
        tokens = add_noise(clean, noise, times).flatten(2).transpose(1, 2).double().numpy()
        states = [tokens @ weights["enter.weight"].T + weights["enter.bias"]]
        for number in (0, 1):
            states.append(states[-1] @ weights[f"blocks.{number}.map.weight"].T + weights[f"blocks.{number}.map.bias"])
        predicted = states[2] @ weights["leave.weight"].T + weights["leave.bias"]
        error = predicted - clean.flatten(2).transpose(1, 2).double().numpy()
        scale = 2 / (error[0].size * times.double().clamp(min=MIN_TIME).numpy() ** 2)
        second = -scale[:, None] * error.sum(1) @ weights["leave.weight"]
        found += np.stack([second @ weights["blocks.1.map.weight"], second]) / draws
        squares += [(state**2).sum(2).mean() / draws for state in states[1:]]
    return found, list(squares**0.5)


def test_gradients_are_those_worked_out_by_hand(linear):
    gradients = block_gradients(linear, PICTURES, draws=3, batch_size=32)
    values, sizes = by_hand(linear, 3)
    assert gradients.values.numpy() == pytest.approx(values, rel=1e-5, abs=1e-6 * np.abs(values).max())
    assert gradients.sizes == pytest.approx(sizes, rel=1e-6)
    heat = explained_map(text_states(COLOUR_LAYER), gradients)
    scaled = values * np.array(sizes)[:, None, None]
    spread = ((scaled - scaled.mean(1, keepdims=True)) ** 2).sum(2).mean(1)
    assert heat.attrs["gradients"] == pytest.approx(spread, rel=0.1)  # about the means of training folds
    assert (heat.to_numpy()[0] <= heat.attrs["gradients"]).all()


def test_the_gradient_is_how_the_loss_changes(tiny_dit, stimuli):
    """By a finite difference: a vector is added to all image tokens of one stimulus behind a block."""
    gradients = block_gradients(tiny_dit, stimuli, draws=1)
    tower = expert_tower(tiny_dit, noise_pass(tiny_dit), "image")
    clean = to_pixels([s.image for s in stimuli], 32)
    noise, times = training_noise(stimuli.ids, tiny_dit.size, 0, 1)
    null = tiny_dit.encode([""]).expand(len(stimuli), -1, -1)
    for block in range(3):
        direction = gradients.values[block, 2] / gradients.values[block, 2].norm()

        def loss(step: float, block: int = block, direction: Tensor = direction) -> float:
            def add(state: Tensor) -> Tensor:
                return state + step * direction * (torch.arange(len(state)) == 2)[:, None, None]

            with torch.no_grad(), visiting(tower, {block: add}):
                predicted = tiny_dit.predict(add_noise(clean, noise, times), null, times)
            return float(velocity_loss(predicted[2:3].double(), clean[2:3].double(), times[2:3].double()))

        assert (loss(-0.02) - loss(0.02)) / 0.04 == pytest.approx(float(gradients.values[block, 2].norm()), rel=0.02)


def test_the_layer_that_a_block_needs_is_found(linear):
    """The second block hands on one of six directions, so that behind it alone a read can change all colours."""
    with torch.no_grad():
        first, second = (block.map for block in linear.model.blocks)
        first.weight.copy_(torch.eye(DIM))
        second.weight.copy_(torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0])))
        second.bias.fill_(1.0)
    others = unrelated(3, 4)
    seen = text_states(*others[:2], COLOUR_LAYER, *others[2:])
    heat = descent_map(seen, linear, PICTURES)
    assert np.unravel_index(heat.to_numpy().argmax(), heat.shape) == (2, 1)
    assert choose_bridges(heat, "descent", 1).pairs == ((2, 1),)
    assert heat.iloc[2, 1] > 5 * np.delete(heat.to_numpy(), 2, 0).max()


def test_unrelated_states_explain_nothing(linear):
    gradients = block_gradients(linear, PICTURES, draws=1)
    for seed in range(3):
        heat = explained_map(np.stack(unrelated(seed, 3)), gradients)
        assert (heat.to_numpy() / heat.attrs["gradients"]).max() < 0.05
        assert heat.attrs["chance"] == 0


def test_scaling_a_blocks_states_changes_nothing(linear):
    seen = text_states(COLOUR_LAYER)
    plain = descent_map(seen, linear, PICTURES, draws=1)
    with torch.no_grad():
        first, second = (block.map for block in linear.model.blocks)
        first.weight.mul_(10)
        first.bias.mul_(10)
        second.weight.div_(10)
    assert descent_map(seen, linear, PICTURES, draws=1).to_numpy() == pytest.approx(plain.to_numpy(), rel=1e-5)


def test_order_and_batches_change_nothing(linear):
    seen, groups = text_states(COLOUR_LAYER, *unrelated()), np.arange(COUNT) // 4
    back = np.arange(COUNT)[::-1]
    turned = Stimuli([PICTURES[int(n)] for n in back], "turned")
    for labels in (None, groups):
        plain = descent_map(seen, linear, PICTURES, groups=labels)
        mixed = text_states(*seen.values[:, back.copy()].numpy(), samples=turned.ids)
        other = descent_map(
            mixed, linear, turned, groups=None if labels is None else labels[back].tolist(), batch_size=7
        )
        assert other.to_numpy() == pytest.approx(plain.to_numpy(), rel=1e-6, abs=1e-6 * plain.to_numpy().max())
    assert not np.allclose(descent_map(seen, linear, PICTURES, seed=1).to_numpy(), plain.to_numpy(), rtol=1e-3)


def test_the_generator_is_left_as_it_was(linear):
    model = linear.model.train()
    model.enter.requires_grad_(False)
    model.leave.weight.grad = torch.ones_like(model.leave.weight)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    with torch.inference_mode():
        block_gradients(linear, PICTURES[:12], draws=1)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        linear.predict = lambda noisy, text, time: model(sample=noisy) * np.nan
        block_gradients(linear, PICTURES[:12], draws=1)
    for name, p in model.named_parameters():
        assert p.requires_grad == before[name][0]
        assert torch.equal(p, before[name][1])
        assert p.grad is None if name != "leave.weight" else torch.equal(p.grad, torch.ones_like(p))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["SD 3.5", "Flux"])
def test_latents_are_descended_too(family, pipeline):
    generation, shown = pipeline(family), PICTURES[:12]
    seen = [COLOUR_LAYER[:12]]
    heat = descent_map(seen, generation, shown, draws=1)
    assert heat.shape == (1, len(generation.blocks))
    assert min(heat.attrs["gradients"]) > 0
    generation.model.enable_gradient_checkpointing()  # its blocks run twice
    try:
        assert descent_map(seen, generation, shown, draws=1).equals(heat)
    finally:
        generation.model.disable_gradient_checkpointing()
    plan = choose_bridges(heat.set_axis(["0"]), "descent", 1)
    assert json.loads(json.dumps(plan.evidence)) == plan.evidence


def test_the_map_survives_its_file(linear, tmp_path):
    heat = descent_map(text_states(COLOUR_LAYER, *unrelated()), linear, PICTURES, draws=1)
    assert set(heat.attrs["cost"]) == {"seconds"}
    heat.to_parquet(tmp_path / "descent.parquet")
    read = read_evidence(tmp_path / "descent.parquet")
    assert choose_bridges(read, "descent", 1) == choose_bridges(heat, "descent", 1)


def test_bad_input_is_one_sentence(linear, tiny_vlm):
    seen, nowhere = text_states(COLOUR_LAYER), np.full_like(COLOUR_LAYER, np.nan)
    for told, error, call in [
        ("sample 0 is 'c0' in 'vlm' but 'c79' in 'two linear", ValueError, {"stimuli": PICTURES[79:]}),
        ("have 80 samples, the generator is shown 40 stimuli", ValueError, {"stimuli": PICTURES[:40]}),
        ("stimuli are a list: open images", TypeError, {"stimuli": list(PICTURES)}),
        ("LlavaExpert has no predict, so there is no loss", TypeError, {"generation": tiny_vlm}),
        ("draws is 0: expected a whole number of at least 1", ValueError, {"draws": 0}),
        ("groups must hold one label for each of 80", ValueError, {"groups": ["a"]}),
        ("layer '0' of text features of 'vlm' holds NaN", ValueError, {"understanding": text_states(nowhere)}),
    ]:
        given = {"understanding": seen, "generation": linear, "stimuli": PICTURES} | call
        with pytest.raises(error, match=told):
            descent_map(**given)
    with pytest.raises(ValueError, match="descent needs 10 samples or more, got 9"):
        descent_map(COLOUR_LAYER[None, :9], linear, PICTURES[:9])
    with torch.no_grad():
        linear.model.leave.weight.zero_()
    with pytest.raises(ValueError, match="the gradient at block 0 of 'two linear blocks' is the same"):
        descent_map(seen, linear, PICTURES, draws=1)
    second = linear.model.blocks[1]
    second.forward = lambda hidden_states: second.map(hidden_states.detach())
    with pytest.raises(ValueError, match=r"does not depend on the image tokens behind block 'blocks.0'"):
        descent_map(seen, linear, PICTURES, draws=1)
    for silent in (torch.no_grad(), torch.inference_mode()):
        linear.predict = silent(partial(LinearExpert.predict, linear))
        with pytest.raises(ValueError, match="what two linear blocks predicts has no gradient"):
            descent_map(seen, linear, PICTURES, draws=1)
