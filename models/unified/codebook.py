"""Discrete image tokens without a network: k-means over the patches of scenes.

Emu3, Chameleon, UniFork and Uni-X draw with the tokens of a trained VQ tokenizer; a flat 32 x 32 scene needs none, its
patches are few. What a code loses is measured, `reconstruction_score`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from ...probes.stimuli.images import to_image, to_pixels
from ..scenes import checker
from ..scenes.composing import compose, examples
from ..scenes.rendering import render_scene
from ..scenes.scene import SIZE, SKILLS

CODES = 256
PATCH = 4  # pixels


class Reconstruction(NamedTuple):
    """How much of scenes is left in their codes.

    score : share of reconstructed images in which the scene checker finds what the caption says, 0..1.
    original : the same share of the images as they were.
    error : mean squared error of pixels in -1..1.
    """

    score: float
    original: float
    error: float


class Codebook(nn.Module):
    """Codes of square patches. `centres` is (code, channel x row x column of a patch), pixels in -1..1."""

    def __init__(self, codes: int = CODES, patch: int = PATCH, channels: int = 3) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("centres", torch.zeros(codes, channels * patch**2))

    def encode(self, pixels: Tensor) -> Tensor:
        """The nearest code of each patch in reading order, (image, patch), of pixels (image, channel, row, column)."""
        patches = nn.functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        return torch.cdist(patches, self.centres.to(patches.dtype)[None]).argmin(2)

    def decode(self, codes: Tensor) -> Tensor:
        """Pixels (image, channel, row, column) in -1..1 of square images from their codes (image, patch)."""
        side = self.patch * round(codes.shape[1] ** 0.5)
        return nn.functional.fold(self.centres[codes].transpose(1, 2), side, self.patch, stride=self.patch)


def fit_codebook(codes: int = CODES, images: int = 1000, seed: int = 0) -> Codebook:
    """Fit the codes to the patches of training scenes, each distinct patch once, by mini-batch k-means.

    Each once, for most patches of a scene are white, and one code is enough for those. A function of its arguments.
    """
    rng = np.random.default_rng((seed, codes))
    drawn = [render_scene(compose(rng, "full", "train").scene, rng) for _ in range(images)]
    patches = nn.functional.unfold(to_pixels(drawn, SIZE), PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    distinct = np.unique(patches.numpy(), axis=0)
    fitted = MiniBatchKMeans(codes, batch_size=4096, n_init=3, random_state=seed).fit(distinct)
    book = Codebook(codes)
    book.centres.copy_(torch.from_numpy(fitted.cluster_centers_))
    return book


@torch.no_grad()
def reconstruction_score(book: Codebook, part: str = "validation", each: int = 40, seed: int = 0) -> Reconstruction:
    """Take `each` scenes of every skill to their codes and back, and let the scene checker read them."""
    composed = list(examples(part, SKILLS, each, seed))
    rng = np.random.default_rng(seed)
    images = [render_scene(example.scene, rng) for example in composed]
    pixels = to_pixels(images, SIZE)
    back = book.decode(book.encode(pixels))
    score, original = (
        float(np.mean([checker.matches_caption(i, e.skill, e.caption) for i, e in zip(shown, composed, strict=True)]))
        for shown in ([to_image(each) for each in back], images)
    )
    return Reconstruction(score, original, (back - pixels).square().mean().item())
