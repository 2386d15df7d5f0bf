"""Learn semantic reconstruction tokens: tokens on the generation side that say what the target image shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...probes.hooks.block_stacks import find_stacks
from ...probes.hooks.capturing import capture
from ...probes.stimuli.images import to_image
from ...probes.stimuli.stimulus_set import Stimulus


class SemanticTokens(nn.Module):
    """Tokens appended to the generation expert's own text, whose outputs learn the image's features.

        loss = 1 - mean cos(project(output token i), target i)

    The targets are the understanding expert's vision features of the clean image, pooled over its patches to as many as
    there are tokens (HBridge has 16). The tokens stand where the generator's text does, so that the generator is no
    longer the untouched expert, whatever the gates.

    Parameters
    ----------
    count : int
        How many tokens there are.
    text_width : int
        The width of the generator's text input.
    width : int
        The width of its text states.
    target_width : int
        The width of the features.

    References
    ----------
    HBridge, arXiv 2511.20520.
    """

    def __init__(self, count: int, text_width: int, width: int, target_width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(count, text_width) * 0.02)
        self.project = nn.Linear(width, target_width)

    def after(self, text: Tensor) -> Tensor:
        """Return text states (batch, token, dim) with the tokens behind them."""
        return torch.cat([text, self.tokens.expand(len(text), -1, -1).to(text)], dim=1)

    def loss(self, states: Tensor, features: Tensor) -> Tensor:
        """Return one minus the mean cosine similarity of projected outputs and pooled features.

        Parameters
        ----------
        states : Tensor
            (batch, token of the text stream, width), the semantic tokens last.
        features : Tensor
            (batch, patch, target width).
        """
        count = len(self.tokens)
        target = F.adaptive_avg_pool1d(features.transpose(1, 2).float(), count).transpose(1, 2)
        predicted = self.project(states[:, -count:].to(self.project.weight.dtype))
        return 1 - F.cosine_similarity(predicted.float(), target, dim=-1).mean()


@torch.no_grad()
def vision_features(expert: Any, images: Tensor) -> Tensor:
    """Return the last states of a vision-language model's own vision tower.

    Parameters
    ----------
    expert : Any
        A vision-language expert.
    images : Tensor
        (image, channel, row, column) in -1..1.

    Returns
    -------
    Tensor
        (image, patch, dim).

    Raises
    ------
    ValueError
        The expert has no vision tower, or one that packs the patches of all images together.
    """
    stacks = [blocks for blocks in find_stacks(expert.model).values() if blocks[0] not in expert.blocks]
    if "image" not in expert.modalities or not stacks:
        raise ValueError(
            f"{expert.name} has no vision tower, whose features semantic tokens reconstruct: "
            "plan without semantic_tokens, or fuse a vision-language model"
        )
    last = max(stacks, key=len)[-1]
    stimuli = [Stimulus(to_image(image), "", "") for image in images]
    shown = expert.show(stimuli, ("image",), "understanding", None)
    with capture(expert.model, [last]) as taps:
        shown.run()
    if taps[last].ndim != 3 or len(taps[last]) != len(images):
        raise ValueError(
            f"the vision tower of {expert.name} holds states {tuple(taps[last].shape)} for {len(images)} images: "
            "expected (batch, patch, dim). Plan without semantic_tokens"
        )
    return taps[last]


@torch.no_grad()
def fitting_tokens(fused: Any, run_image: Callable[[], Any]) -> SemanticTokens:
    """Return new tokens that fit the text of a fused model's generator and the features of its understanding expert.

    Parameters
    ----------
    fused : FusedModel
        The model, whose `at_text_end` knows where the text stream ends.
    run_image : callable
        One forward pass of the generator.

    Returns
    -------
    SemanticTokens
        As many as the plan has. A generator that takes no further text tokens raises here, before any training.
    """
    states: list[Tensor] = []
    with fused.at_text_end(states.append):
        run_image()
    target = vision_features(fused.experts[0], torch.zeros(1, *fused.pixels))
    null = fused.null_text
    tokens = SemanticTokens(fused.plan.semantic_tokens, null.shape[-1], states[0].shape[-1], target.shape[-1])
    noisy = null.new_zeros(1, *fused.size)
    fused.experts[1].predict(noisy, tokens.after(null), noisy.new_ones(1))
    return tokens
