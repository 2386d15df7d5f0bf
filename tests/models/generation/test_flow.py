"""Flow matching: noise is mixed in on a straight line, and every caller gets the loss of the same few lines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bridgework.models.generation.flow import add_noise, flow_loss, targets_and_noise, velocity_loss

RNG = torch.Generator().manual_seed(0)
IMAGE, NOISE = torch.randn(2, 3, 4, 4, generator=RNG), torch.randn(2, 3, 4, 4, generator=RNG)
TIME = torch.tensor([0.3, 0.8])
BATCH = {"image": IMAGE, "noise": NOISE, "time": TIME, "caption": ["a", "b"]}


def guess(noisy, text, time):
    return noisy * torch.tensor([len(caption) for caption in text])[:, None, None, None] / 2


def model(**more) -> SimpleNamespace:
    """A user's own generator: no class of ours."""
    return SimpleNamespace(device=torch.device("cpu"), condition=list, predict=guess, **more)


def test_noise_is_mixed_in_on_a_straight_line():
    noisy = add_noise(IMAGE, NOISE, TIME)
    for row, time in enumerate(TIME):
        assert torch.equal(noisy[row], time * NOISE[row] + (1 - time) * IMAGE[row])
    assert torch.equal(add_noise(IMAGE, NOISE, 0.0), IMAGE)
    assert torch.equal(add_noise(IMAGE, NOISE, 1.0), NOISE)


def test_the_loss_is_that_of_the_velocity():
    noisy = TIME[:, None, None, None] * NOISE + (1 - TIME)[:, None, None, None] * IMAGE
    velocity, predicted = ((noisy - clean) / TIME[:, None, None, None] for clean in (IMAGE, noisy / 2))
    assert flow_loss(model(), BATCH) == pytest.approx(float((predicted - velocity).square().mean()), rel=1e-5)


def test_pixels_are_their_own_targets():
    image, time, noise = targets_and_noise(model(), BATCH)
    assert torch.equal(image, IMAGE) and torch.equal(time, TIME) and torch.equal(noise, NOISE)


def test_latents_take_as_much_of_the_noise():
    own = model(latents=lambda images: images[:, :2, ::2, ::2] * 3)
    image, _, noise = targets_and_noise(own, BATCH)
    assert torch.equal(image, IMAGE[:, :2, ::2, ::2] * 3)
    assert torch.equal(noise.flatten(1), NOISE.flatten(1)[:, :8])
    expected = velocity_loss(guess(add_noise(image, noise, TIME), ["a", "b"], TIME), image, TIME)
    assert flow_loss(own, BATCH) == expected
