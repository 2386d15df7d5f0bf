"""Train one trunk that answers about images and draws them by flow matching."""

from __future__ import annotations

from typing import Any

from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
from torch import Tensor, nn
from transformers import LlavaConfig

from ...probes.plans.bridge_plan import BridgePlan
from ..experts.pixel_dit import DitExpert
from ..generation.flow import flow_loss
from ..generation.sampling import Generator
from .one_trunk import CaptionTokens, OneTrunk

PATCH = 4  # pixels, as scenes-dit has it


class UnifiedModel(OneTrunk, Generator):
    """A unified model that denoises patches of pixels, 4 x 4 each, in the trunk that reads and writes text.

    It is a generator with the methods that sampling, evaluation and training call: `condition`, `predict`, `loss`.
    Patches enter with fixed two-dimensional positions and the time added (diffusers' `PatchEmbed`, `Timesteps`), beside
    their rotary positions.

    Parameters
    ----------
    plan, config, tokenizer, causal_images
        As for `models.unified.one_trunk.OneTrunk`; `from_experts` takes them from an understanding expert.

    Raises
    ------
    ValueError
        The layout or depth is another one, the text model is no Llama, or the tokenizer lacks a token.

    See Also
    --------
    UnifiedTokens : Draws discrete tokens one by one, where this denoises all patches together.
    FusedModel : Keeps two experts as they are, and trains what joins them.

    References
    ----------
    Transfusion, arXiv 2408.11039.

    Examples
    --------
    >>> unified = UnifiedModel.from_experts(lay_out("Y", 16, 13), vlm, dit)
    >>> unified.answer([stimuli[0].image], ["how many things ?"])
    """

    objective = "flow"
    FLOW_WEIGHT = 5.0  # Transfusion's weight of its diffusion loss beside language modelling

    def __init__(self, plan: BridgePlan, config: LlavaConfig, tokenizer: Any, causal_images: bool = False) -> None:
        super().__init__(plan, config, tokenizer, causal_images)
        (channels, side, _), width = self.size, config.text_config.hidden_size
        self.patches = PatchEmbed(side, side, PATCH, channels, width, pos_embed_max_size=side // PATCH)
        self.times = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.clock = TimestepEmbedding(256, width)
        self.out = nn.Linear(width, channels * PATCH**2)

    def _copy_matching(self, generation: DitExpert) -> list[str]:
        roles = {"patches.proj": "pos_embed.proj", "clock": "time_text_embed.timestep_embedder", "out": "proj_out"}
        taken = []
        for own, theirs in roles.items():
            target, source = self.get_submodule(own), generation.model.get_submodule(theirs)
            state = source.state_dict()
            if {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in target.state_dict().items()}:
                target.load_state_dict(state)
                taken += [f"{own}.{name}" for name in state]
        return taken

    def predict(self, noisy: Tensor, text: CaptionTokens, time: Tensor) -> Tensor:
        """Predict the clean image from a noisy one.

        Parameters
        ----------
        noisy : Tensor
            (batch, channel, row, column).
        text : CaptionTokens
            What `condition` returned for the captions.
        time : Tensor
            (batch,), 0 = clean, 1 = noise.

        Returns
        -------
        Tensor
            (batch, channel, row, column) in -1..1.
        """
        clock = self.clock(self.times(time * 1000).to(noisy.dtype))
        tokens = self.caption_then_image(text, self.patches(noisy) + clock[:, None], noise=True)
        patches = self.out(self.trunk(tokens, generation=True)[:, text.ids.shape[1] :])
        channels, rows, columns = self.size
        grid = patches.unflatten(2, (PATCH, PATCH, channels)).unflatten(1, (rows // PATCH, columns // PATCH))
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(noisy), *self.size)

    def drawing_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return `FLOW_WEIGHT` times the velocity loss of the batch's images (`flow_loss`), a scalar."""
        return self.FLOW_WEIGHT * flow_loss(self, batch)
