"""Train one trunk on discrete image tokens: next-token prediction over one vocabulary of words and image codes.

As in UniFork (arXiv 2506.17202), Uni-X (arXiv 2509.24365), Emu3 (arXiv 2409.18869) and Chameleon (arXiv 2405.09818), a
sequence is a caption, a token that begins an image, then the image's codes in reading order, each predicted from those
before it. Deviations: codes are k-means centres of patches (models/unified/codebook.py) instead of a VQ network's;
understanding reads the image through a vision tower (so does UniFork), not as codes; image tokens carry a learnt
position, of the code that they predict, beside their rotary one; captions are not predicted where they stand before an
image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import Cache, DynamicCache, LlavaConfig

from ...probes.arguments import checked
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_image
from ..experts.pixel_dit import DitExpert
from ..experts.vision_language import LlavaExpert
from .codebook import CODES, PATCH, Codebook, fit_codebook
from .one_trunk import CaptionTokens, OneTrunk


class UnifiedTokens(OneTrunk):
    """A unified model that draws an image token by token.

    The constructor's codebook is blank: `from_experts` fits one, `load` opens the one that was saved.

    Parameters
    ----------
    plan, config, tokenizer, causal_images
        As for `OneTrunk`.
    codes : int
        How many image codes there are.

    Raises
    ------
    ValueError, TypeError
        As `UnifiedModel`; or there are fewer codes than two.

    See Also
    --------
    UnifiedModel : Draws by denoising patches, where this draws discrete tokens one by one.
    FusedModel : Keeps two experts as they are, and trains what joins them.

    References
    ----------
    Emu3, arXiv 2409.18869; Chameleon, arXiv 2405.09818.
    """

    objective = "tokens"
    OPTIONS = ("codes",)

    def __init__(
        self, plan: BridgePlan, config: LlavaConfig, tokenizer: Any, causal_images: bool = False, codes: int = CODES
    ) -> None:
        super().__init__(plan, config, tokenizer, causal_images)
        codes = checked("codes", codes, int, least=2, most=10**6)
        text, grid = config.text_config, self.size[1] // PATCH
        self.book = Codebook(codes)
        self.codes = nn.Embedding(codes + 1, text.hidden_size)  # the last one begins an image
        self.grid = nn.Embedding(grid**2, text.hidden_size)
        for embedding in (self.codes, self.grid):
            nn.init.normal_(embedding.weight, std=text.initializer_range)

    @classmethod
    def from_experts(
        cls, plan: BridgePlan, understanding: LlavaExpert, generation: DitExpert, **options: Any
    ) -> UnifiedTokens:
        """Build a model as `OneTrunk.from_experts` does, with codes fitted to training scenes.

        Nothing is taken from the generation expert.

        Parameters
        ----------
        plan, understanding, generation, **options
            As of `OneTrunk.from_experts`; codes is one more option.

        Returns
        -------
        UnifiedTokens
            The model, in evaluation mode.
        """
        model = super().from_experts(plan, understanding, generation, **options)
        model.book = fit_codebook(len(model.book.centres)).to(model.device)
        return model

    def settings(self) -> dict[str, Any]:
        """Return what the constructor was given beside plan, config and tokenizer, as plain JSON."""
        return {**super().settings(), "codes": len(self.book.centres)}

    def logits(self, states: Tensor) -> Tensor:
        """Return the scores of words, then of codes, (batch, token, vocabulary), from states (batch, token, dim)."""
        return torch.cat([super().logits(states), states @ self.codes.weight.T], dim=-1)

    def following(self, text: CaptionTokens, codes: Tensor, cache: Cache | None = None) -> Tensor:
        """Score each image code, and the next one, given the caption and the codes before it.

        Parameters
        ----------
        text : CaptionTokens
            The captions.
        codes : Tensor
            The first codes of each image, (batch, code), whole numbers from 0.
        cache : Cache, optional
            An empty one is filled. With a filled one, `codes` is longer by one code, and only the next is scored.

        Returns
        -------
        Tensor
            (batch, codes + 1, vocabulary); with a filled cache (batch, 1, vocabulary).
        """
        begin = codes.new_full((len(codes), 1), len(self.book.centres))
        # A token carries the place of the code that it predicts, which rotary positions alone do not say.
        states = self.codes(torch.cat([begin, codes], 1)) + self.grid.weight[: codes.shape[1] + 1]
        if cache is None or not cache.get_seq_length():
            hidden = self.trunk(self.caption_then_image(text, states, noise=False), generation=True, cache=cache)
            return self.logits(hidden[:, text.ids.shape[1] :])
        before = nn.functional.pad(text.real, (0, codes.shape[1]), value=True)
        return self.logits(self.trunk.step(states[:, -1:], before, cache))

    def drawing_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the cross-entropy of a batch's images given captions, a scalar in nats a code."""
        codes = self.book.encode(batch["image"].to(self.device))
        scores = self.following(self.condition(batch["caption"]), codes[:, :-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), codes.flatten() + self._words)

    @torch.inference_mode()
    def draw(self, captions: Sequence[str], ids: Sequence[str], guidance: float = 3.0) -> list[Image.Image]:
        """Draw one image for each caption, code after code; what is drawn is a function of id and text.

        Scores are `null + guidance * (caption - null)` (Emu3, LlamaGen), sampled at temperature 1 by adding Gumbel
        noise that is a function of the id alone.

        Parameters
        ----------
        captions, ids : sequence of str
            One id for each caption.
        guidance : float
            The weight of the caption.

        Returns
        -------
        list of PIL.Image.Image
            In the order of the captions.

        Raises
        ------
        ValueError
            Captions and ids are not equally many, or there are none.
        """
        if len(captions) != len(ids) or not captions:
            raise ValueError(f"expected one id for each caption, got {len(captions)} captions and {len(ids)} ids")
        count = len(self.book.centres)
        chance = noise_for(ids, (self.grid.num_embeddings, count)).double()
        gumbel = -torch.log(-torch.special.log_ndtr(chance)).float().to(self.device)
        both = self.condition([*captions, *[""] * len(captions)])
        codes = torch.zeros(len(captions), 0, dtype=torch.long, device=self.device)
        cache = DynamicCache()
        for step in tqdm(range(self.grid.num_embeddings), desc="draw", leave=False):
            scores = self.following(both, codes.repeat(2, 1), cache)[:, -1, self._words : self._words + count].float()
            captioned, null = scores.chunk(2)
            best = (null + guidance * (captioned - null) + gumbel[:, step]).argmax(1)
            codes = torch.cat([codes, best[:, None]], 1)
        return [to_image(pixels) for pixels in self.book.decode(codes)]

    @property
    def _words(self) -> int:
        """The number of words, which come before the codes in the vocabulary."""
        return self.reader.lm_head.out_features
