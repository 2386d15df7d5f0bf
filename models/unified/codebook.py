"""Make discrete image tokens without a network: k-means over the patches of scenes.

Emu3, Chameleon, UniFork and Uni-X draw with the tokens of a trained VQ tokenizer. A flat 32 x 32 scene needs none: its
patches are few.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from ...probes.stimuli.images import to_pixels
from ..scenes.composing import compose
from ..scenes.rendering import render_scene
from ..scenes.scene import SIZE

CODES = 256
PATCH = 4  # pixels


class Codebook(nn.Module):
    """Codes of square patches.

    Parameters
    ----------
    codes : int
        How many codes there are.
    patch : int
        Pixels a side of a patch.
    channels : int
        Colour channels.

    Attributes
    ----------
    centres : Tensor
        (code, channel x row x column of a patch), pixels in -1..1; zero until it is filled.
    """

    def __init__(self, codes: int = CODES, patch: int = PATCH, channels: int = 3) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("centres", torch.zeros(codes, channels * patch**2))

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the nearest code of each patch, (image, patch) in reading order.

        Parameters
        ----------
        pixels : Tensor
            (image, channel, row, column) in -1..1.
        """
        patches = nn.functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        return torch.cdist(patches, self.centres.to(patches.dtype)[None]).argmin(2)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the pixels (image, channel, row, column) in -1..1 of square images from their codes (image, patch)."""
        side = self.patch * round(codes.shape[1] ** 0.5)
        return nn.functional.fold(self.centres[codes].transpose(1, 2), side, self.patch, stride=self.patch)


def fit_codebook(codes: int = CODES, images: int = 1000, seed: int = 0) -> Codebook:
    """Fit codes to the patches of training scenes by mini-batch k-means.

    Each distinct patch counts once: most patches of a scene are white, and one code is enough for those.

    Parameters
    ----------
    codes : int
        How many codes there are.
    images : int
        How many scenes are drawn.
    seed : int
        The seed of scenes and k-means: equal arguments give equal codes.
    """
    rng = np.random.default_rng((seed, codes))
    drawn = [render_scene(compose(rng, "full", "train").scene, rng) for _ in range(images)]
    patches = nn.functional.unfold(to_pixels(drawn, SIZE), PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    distinct = np.unique(patches.numpy(), axis=0)
    fitted = MiniBatchKMeans(codes, batch_size=4096, n_init=3, random_state=seed).fit(distinct)
    book = Codebook(codes)
    book.centres.copy_(torch.from_numpy(fitted.cluster_centers_))
    return book
