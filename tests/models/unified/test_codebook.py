"""Image codes: patches to their nearest centre and back, fitted the same way every time."""

from __future__ import annotations

import pytest
import torch

from bridgework.models.unified.codebook import Codebook, fit_codebook, reconstruction_score


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


def test_fitting_is_a_function_of_its_arguments(book):
    assert torch.equal(fit_codebook(codes=256, images=100).centres, book.centres)
    assert not torch.equal(fit_codebook(codes=256, images=100, seed=1).centres, book.centres)


def test_the_checker_reads_reconstructed_scenes(book):
    fine, coarse = (reconstruction_score(each, each=10) for each in (book, fit_codebook(codes=4, images=100)))
    assert fine.original == 1
    assert fine.score > 0.9
    assert coarse.score < 0.5
    assert coarse.error > 3 * fine.error > 0
