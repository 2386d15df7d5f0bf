"""One trunk on discrete image tokens: next-token prediction over one vocabulary of words and image codes.

As in UniFork (arXiv 2506.17202), Uni-X (arXiv 2509.24365), Emu3 (arXiv 2409.18869) and Chameleon (arXiv 2405.09818): a
caption, a token that begins an image, then the image's codes in reading order, each predicted from those before it.
Deviations: codes are k-means centres of patches (models/unified/codebook.py) instead of a VQ network's; understanding reads the
image through a vision tower (so does UniFork), not as codes; image tokens carry a learnt position, of the code that
they predict, beside their rotary one; captions are not predicted where they stand before an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import Cache, DynamicCache, LlavaConfig

from ...probes.plans.bridge_plan import BridgePlan
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_image
from ..experts.pixel_dit import DitExpert
from ..experts.vision_language import LlavaExpert
from .codebook import CODES, PATCH, Codebook, fit_codebook
from .one_trunk import CaptionTokens, OneTrunk


class UnifiedTokens(OneTrunk):
    """A unified model that draws an image token by token.

    Parameters are those of `OneTrunk`, and `codes`, how many image codes there are. The constructor's codebook is
    blank: `from_experts` fits one, `load` brings the one that was saved.
    """

    objective = "tokens"

    def __init__(
        self, plan: BridgePlan, config: LlavaConfig, tokenizer: Any, causal_images: bool = False, codes: int = CODES
    ) -> None:
        super().__init__(plan, config, tokenizer, causal_images)
        text, grid = config.text_config, self.size[1] // PATCH
        self.book = Codebook(codes)
        self.codes = nn.Embedding(codes + 1, text.hidden_size)  # the last one begins an image
        self.grid = nn.Embedding(grid**2, text.hidden_size)
        for each in (self.codes, self.grid):
            nn.init.normal_(each.weight, std=text.initializer_range)

    @classmethod
    def from_experts(
        cls, plan: BridgePlan, understanding: LlavaExpert, generation: DitExpert, **options: Any
    ) -> UnifiedTokens:
        """As `OneTrunk.from_experts`, with codes fitted to training scenes. Nothing is taken from `generation`."""
        model = super().from_experts(plan, understanding, generation, **options)
        model.book = fit_codebook(len(model.book.centres)).to(model.device)
        return model

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "codes": len(self.book.centres)}

    def logits(self, states: Tensor) -> Tensor:
        """Scores (batch, token, vocabulary) over words, then image codes; the embeddings of codes score them."""
        return torch.cat([super().logits(states), states @ self.codes.weight.T], dim=-1)

    def following(self, text: CaptionTokens, codes: Tensor, cache: Cache | None = None) -> Tensor:
        """Scores (batch, codes + 1, vocabulary) of each image code, and the next, given the caption and those before.

        codes : (batch, code), whole numbers from 0, the first codes of each image.
        cache : an empty one is filled; with a filled one, `codes` continues by one code, and only the next is scored.
        """
        begin = codes.new_full((len(codes), 1), len(self.book.centres))
        # a token carries the place of the code that it predicts, which is the one it cannot count out
        states = self.codes(torch.cat([begin, codes], 1)) + self.grid.weight[: codes.shape[1] + 1]
        if cache is None or not cache.get_seq_length():
            hidden = self.trunk(self.caption_then_image(text, states, noise=False), generation=True, cache=cache)
            return self.logits(hidden[:, text.ids.shape[1] :])
        before = nn.functional.pad(text.real, (0, codes.shape[1]), value=True)
        return self.logits(self.trunk.step(states[:, -1:], before, cache))

    def drawing_loss(self, batch: dict[str, Any]) -> Tensor:
        """Cross-entropy of the images' codes given their captions, in nats a code; times and noise are not used."""
        codes = self.book.encode(batch["image"].to(self.device))
        scores = self.following(self.condition(batch["caption"]), codes[:, :-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), codes.flatten() + self._words)

    @torch.inference_mode()
    def draw(self, captions: Sequence[str], ids: Sequence[str], guidance: float = 3.0) -> list[Image.Image]:
        """One image for each caption, its codes drawn one after the other; what is drawn is a function of id and text.

        Scores are `null + guidance * (caption - null)` (Emu3, LlamaGen), sampled at temperature 1 by adding Gumbel
        noise that is a function of the id alone.

        Raises ValueError where captions and ids are not equally many, or there are none.
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
            told, null = scores.chunk(2)
            best = (null + guidance * (told - null) + gumbel[:, step]).argmax(1)
            codes = torch.cat([codes, best[:, None]], 1)
        return [to_image(pixels) for pixels in self.book.decode(codes)]

    @property
    def _words(self) -> int:
        """How many words come before the codes in the vocabulary."""
        return self.reader.lm_head.out_features
