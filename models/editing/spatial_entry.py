"""Let a generator see a source image through its own patch embedding: a learned map of it behind a closed gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...probes.single_contexts import single_context


class SpatialEntry(nn.Module):
    """A gated linear map of the source's patches, added to the patches of what is denoised.

    The source goes through the generator's own patch embedding, as the noisy image does; what the embedding says of
    nothing (its positions) is taken away. A linear map of the result, the identity at first, is added patch by patch
    behind a gate, one number a channel, that is 0 at first: training starts from the untouched generator, and a gate
    that opens evenly mixes the source into the noisy image. These are the source's spatial tokens: they say what is
    where, and pass by the understanding expert.

    InstructPix2Pix lets its source enter so: further channels of the first layer, whose weights are zero at first.
    ControlNet adds features of its input by maps that are zero at first. LightFusion, BAGEL and FLUX.1 Kontext put the
    source's clean latents beside the noisy ones as more tokens of the sequence; there the generator's attention reads
    them, which a frozen generator has not learnt.

    Parameters
    ----------
    generation : Any
        The generation expert. Its model must have one `PatchEmbed` of diffusers.

    Attributes
    ----------
    map : nn.Linear
        The map, learnt.
    gate : nn.Parameter
        The gate, learnt, (dim,).

    Raises
    ------
    ValueError
        The generator has no such patch embedding, or several.

    References
    ----------
    InstructPix2Pix, arXiv 2211.09800; ControlNet, arXiv 2302.05543; LightFusion, arXiv 2510.22946; BAGEL, arXiv
    2505.14683; FLUX.1 Kontext, arXiv 2506.15742.
    """

    def __init__(self, generation: Any) -> None:
        from diffusers.models.embeddings import PatchEmbed

        super().__init__()
        found = [module for module in generation.model.modules() if isinstance(module, PatchEmbed)]
        if len(found) != 1:
            raise ValueError(
                f"{generation.name} has {len(found)} patch embeddings (diffusers' PatchEmbed), and a source enters by "
                "one: let the source enter as 'semantic' tokens"
            )
        self._embedding = found  # in a list: it is the expert's module, and neither trained nor saved here
        width = found[0].proj.weight.shape[0]
        self.map = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.map.weight)
        self.gate = nn.Parameter(torch.zeros(width))

    def embed(self, source: Tensor) -> Tensor:
        """Return the generator's own embedding of clean images or latents, less its embedding of zeros.

        Parameters
        ----------
        source : Tensor
            (batch, channel, row, column), of the size that the generator draws.

        Returns
        -------
        Tensor
            (batch, patch, dim).
        """
        embedding = self._embedding[0]
        source = source.to(embedding.proj.weight.dtype)
        with torch.no_grad():
            return embedding(source) - embedding(torch.zeros_like(source[:1]))

    @single_context
    def adding(self, embedded: Tensor) -> Iterator[None]:
        """Add a source to what the generator embeds while the context lasts.

        Parameters
        ----------
        embedded : Tensor
            What `embed` returned, (batch, patch, dim).

        Raises
        ------
        ValueError
            The generator runs on a batch of another size.
        """

        def add(module: nn.Module, given: Any, noisy: Tensor) -> Tensor:
            if len(noisy) != len(embedded):
                raise ValueError(f"{len(embedded)} sources for a batch of {len(noisy)}: give as many of both")
            return noisy + (self.gate * self.map(embedded.to(self.gate.dtype))).to(noisy.dtype)

        handle = self._embedding[0].register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()
