"""Sampling: Euler steps that end where the model points, from noise that belongs to an id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bridgework.models.generation.sampling import Generator, as_generator, draws, generate

CAPTIONS, IDS = ["a red circle", "a ring", "two squares"], ["one", "two", "three"]


def arrays(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


class Oracle:
    """Sees the clean image at once: a grey that its caption names, whatever the noise."""

    name, device, size = "oracle", torch.device("cpu"), (3, 4, 6)

    def __init__(self):
        self.times = []

    def condition(self, texts):
        return torch.tensor([float(text or 0) for text in texts])

    def predict(self, noisy, text, time):
        self.times.append(time[0].item())
        return text[:, None, None, None].expand(noisy.shape)


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_the_last_step_ends_at_the_clean_image(steps):
    grey = arrays(generate(Oracle(), ["0.2", "-0.6"], ["a", "b"], steps=steps, guidance=1))
    assert grey.shape == (2, 4, 6, 3)
    assert np.abs(grey[0] - round(0.2 * 127.5 + 127.5)).max() <= 1
    assert np.abs(grey[1] - round(-0.6 * 127.5 + 127.5)).max() <= 1


def test_guidance_goes_beyond_the_caption():
    grey = arrays(generate(Oracle(), ["0.2"], ["a"], steps=2, guidance=3))
    assert np.abs(grey - round(0.6 * 127.5 + 127.5)).max() <= 1
    assert np.abs(arrays(generate(Oracle(), ["0.2"], ["a"], steps=2, guidance=0)) - 128).max() <= 1


def test_times_fall_from_one():
    oracle = Oracle()
    generate(oracle, ["0"], ["a"], steps=4)
    assert oracle.times == pytest.approx([1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25])


def test_same_ids_same_images(tiny_dit):
    first = arrays(generate(tiny_dit, CAPTIONS, IDS, steps=2))
    assert first.shape == (3, 32, 32, 3)
    assert np.array_equal(first, arrays(generate(tiny_dit, CAPTIONS, IDS, steps=2)))
    other = arrays(generate(tiny_dit, CAPTIONS, ["four", "five", "six"], steps=2))
    assert (np.abs(first - other).max((1, 2, 3)) > 1).all()


def test_order_and_batches_do_not_matter(tiny_dit):
    first = arrays(generate(tiny_dit, CAPTIONS, IDS, steps=2))
    turned = arrays(generate(tiny_dit, CAPTIONS[::-1], IDS[::-1], steps=2, batch_size=2))[::-1]
    assert np.abs(first - turned).max() <= 1  # a grey level: rounding


def test_captions_matter(tiny_dit):
    one = arrays(generate(tiny_dit, ["a red circle"], ["id"], steps=2))
    other = arrays(generate(tiny_dit, ["two squares"], ["id"], steps=2))
    assert np.abs(one - other).max() > 1


def test_a_fused_model_draws_what_its_expert_draws_without_text(fuse, plan):
    fused = fuse(plan)
    drawn = arrays(generate(fused, CAPTIONS, IDS, steps=2))
    assert np.array_equal(drawn, arrays(generate(fused.experts[1], [""] * 3, IDS, steps=2)))
    with torch.no_grad():
        for bridge in fused.bridges:
            bridge.gate.fill_(1.0)
    assert np.abs(arrays(generate(fused, CAPTIONS, IDS, steps=2)) - drawn).max() > 1


@pytest.mark.parametrize(
    ("captions", "ids", "said"),
    [([], [], "captions is \\[\\]"), (["a"], [], "ids is \\[\\]"), (["a"], ["x", "y"], "got 1 captions and 2 ids")],
)
def test_captions_without_ids(tiny_dit, captions, ids, said):
    with pytest.raises(ValueError, match=said):
        generate(tiny_dit, captions, ids)


class Latents(Oracle):
    """Denoises half of what it draws."""

    pixels = (3, 8, 12)

    def latents(self, images):
        return images[:, :, ::2, ::2]

    def decode(self, latents):
        return latents.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_a_class_of_your_own_need_not_inherit(tiny_dit):
    image = torch.rand(2, 3, 4, 6)
    plain = as_generator(Oracle())
    assert isinstance(plain, Generator)
    assert (plain.size, plain.pixels, plain.device) == ((3, 4, 6), (3, 4, 6), torch.device("cpu"))
    assert plain.latents(image) is image
    assert plain.decode(image) is image
    own = as_generator(Latents())
    assert (own.size, own.pixels) == ((3, 4, 6), (3, 8, 12))
    assert torch.equal(own.latents(own.decode(image)), image)
    assert [drawn.size for drawn in generate(Latents(), ["0.2"], ["a"], steps=1)] == [(12, 8)]
    assert as_generator(tiny_dit) is tiny_dit


def test_pixels_stand_for_themselves(tiny_dit):
    image = torch.rand(1, *tiny_dit.size)
    assert tiny_dit.pixels == tiny_dit.size
    assert tiny_dit.decode(tiny_dit.latents(image)) is image


class Tokens:
    """Draws image tokens by itself, with nothing to denoise."""

    def __init__(self):
        self.asked = []

    def draw(self, captions, ids, guidance):
        self.asked.append((list(captions), list(ids), guidance))
        return [Image.new("RGB", (2, 2), caption) for caption in captions]


def test_a_model_that_draws_by_itself_does():
    model = Tokens()
    drawn = arrays(generate(model, ["red", "lime", "blue"], IDS, steps=7, guidance=2, batch_size=2))
    assert (drawn == 255 * np.eye(3, dtype=int)[:, None, None]).all()
    assert model.asked == [(["red", "lime"], ["one", "two"], 2), (["blue"], ["three"], 2)]


def test_what_draws(tiny_dit, tiny_vlm, fuse, plan):
    assert draws(tiny_dit)
    assert draws(fuse(plan))
    assert draws(Tokens())
    assert not draws(tiny_vlm)
    with pytest.raises(TypeError, match="expected a generator, with condition and predict or with draw, got Llava"):
        generate(tiny_vlm, CAPTIONS, IDS)
