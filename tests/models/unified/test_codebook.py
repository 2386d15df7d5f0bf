"""Image codes: patches to their nearest centre and back, fitted the same way every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.models.scenes.checker import matches_caption
from bridgework.models.scenes.composing import examples
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import SIZE, SKILLS
from bridgework.models.unified.codebook import Codebook, fit_codebook
from bridgework.probes.stimuli.images import to_image, to_pixels


@pytest.fixture(scope="module")
def book() -> Codebook:
    return fit_codebook(codes=256, images=100)


def test_codes_go_to_pixels_and_back(book):
    codes = torch.randint(0, 256, (3, 64), generator=torch.Generator().manual_seed(0))
    pixels = book.decode(codes)
    assert pixels.shape == (3, 3, 32, 32)
    assert torch.equal(book.encode(pixels), codes)


def test_codes_stand_in_reading_order():
    book = Codebook(codes=64)
    book.centres.copy_(torch.arange(64.0)[:, None].expand(-1, 48))
    pixels = book.decode(torch.arange(64)[None])
    rows = torch.arange(32) // 4
    assert torch.equal(pixels[0, 0], (8 * rows[:, None] + rows[None]).float())


def test_the_nearest_centre_is_taken(book):
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    patch = pixels[1, :, 4:8, 8:12].flatten()  # row 1, column 2
    wanted = (book.centres - patch).square().sum(1).argmin()
    assert book.encode(pixels)[1, 1 * 8 + 2] == wanted


def test_fitting_is_a_function_of_its_arguments():
    one, again, other = (fit_codebook(codes=64, images=30, seed=seed).centres for seed in (0, 0, 1))
    assert torch.equal(again, one)
    assert not torch.equal(other, one)


def test_the_checker_reads_reconstructed_scenes(book):
    composed = list(examples("validation", SKILLS, 10, 0))
    rng = np.random.default_rng(0)
    images = [render_scene(example.scene, rng) for example in composed]
    pixels = to_pixels(images, SIZE)
    coarse = fit_codebook(codes=4, images=100)
    back = {"fine": book.decode(book.encode(pixels)), "coarse": coarse.decode(coarse.encode(pixels))}

    def score(shown) -> float:
        pairs = zip(shown, composed, strict=True)
        return float(np.mean([matches_caption(image, each.skill, each.caption) for image, each in pairs]))

    assert score(images) == 1
    assert score(map(to_image, back["fine"])) > 0.9
    assert score(map(to_image, back["coarse"])) < 0.5
    errors = {name: (decoded - pixels).square().mean() for name, decoded in back.items()}
    assert errors["coarse"] > 3 * errors["fine"] > 0
