"""Pixels: the range, the order of axes, the way back, and noise that belongs to an id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bridgework.models.generation.flow import noisy_images
from bridgework.probes.stimuli.controls import noise_for
from bridgework.probes.stimuli.images import to_image, to_pixels
from bridgework.probes.stimuli.stimulus_set import Stimulus


def test_axes_and_range():
    array = np.zeros((4, 4, 3), np.uint8)
    array[0, 3] = (255, 0, 51)
    pixels = to_pixels([Image.fromarray(array)], 4)
    assert pixels.shape == (1, 3, 4, 4)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 3].tolist() == pytest.approx([1, -1, -0.6])
    assert pixels[0, :, 3, 0].tolist() == [-1, -1, -1]


def test_back_to_the_same_image():
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(to_image(to_pixels([Image.fromarray(array)], 8)[0])), array)


def test_other_sizes_and_modes():
    assert to_pixels([Image.new("L", (7, 9), 255), Image.new("RGBA", (3, 3))], 8).shape == (2, 3, 8, 8)


def test_out_of_range_is_clipped():
    pixels = torch.tensor([3.0, -3.0, 0.0])[:, None, None].expand(3, 2, 2)
    assert np.asarray(to_image(pixels))[0, 0].tolist() == [255, 0, 128]


def test_noise_mixes_with_the_image_by_time():
    image = Image.new("RGB", (8, 8), (255, 255, 255))
    shown = [Stimulus(image, "a", "one"), Stimulus(image, "b", "two")]
    noise = noise_for(["one", "two"], (3, 8, 8))
    noisy, time = noisy_images(shown, True, 0.25, 8)
    torch.testing.assert_close(noisy, 0.25 * noise + 0.75)
    assert time.tolist() == [0.25, 0.25]


def test_noise_without_an_image_is_pure_and_not_that_of_the_image():
    shown = [Stimulus(Image.new("RGB", (8, 8)), "a", "one")]
    noisy, time = noisy_images(shown, False, 0.25, 8)
    assert time.tolist() == [1]
    assert abs(float(noisy.std()) - 1) < 0.2
    assert not torch.isclose(noisy, noise_for(["one"], (3, 8, 8))).any()
