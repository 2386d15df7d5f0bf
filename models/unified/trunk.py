"""Build the stack of a unified model with one trunk: Llama blocks, of which a plan says which are shared.

Blocks, norms and rotary angles are transformers' own. A block that is not shared has a second one beside it, its twin.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaConfig, LlamaModel, LlavaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layout_table import TRUNKS
from ..scenes.dialogues import IMAGE
from ..towers.attention_masks import SequencePlaces, visible


class TrunkTokens(NamedTuple):
    """A sequence on its way through the trunk.

    Attributes
    ----------
    states : Tensor
        (batch, token, dim).
    image : Tensor
        (batch, token), True for tokens of an image, clean, noisy or discrete.
    places : SequencePlaces
        The places of the tokens, which say who sees whom (models/towers/attention_masks.py).
    """

    states: Tensor
    image: Tensor
    places: SequencePlaces


class _ModalityRows(NamedTuple):
    """The tokens of one modality, picked out of every row: as many as the row with the most has.

    Attributes
    ----------
    index : Tensor
        Where each stands in the whole sequence, (batch, picked).
    real : Tensor
        False where a row has fewer, (batch, picked).
    mask : Tensor
        Which of them see which, (batch, 1, picked, picked).
    angles : tuple of Tensor
        Cosines and sines of their rotary positions, each (batch, picked, head dim).
    """

    index: Tensor
    real: Tensor
    mask: Tensor
    angles: tuple[Tensor, Tensor]


class Trunk(LlamaModel):
    """A Llama whose blocks outside the plan's pairs have a twin, in `own_layers`.

    shared  There are no twins: every token of either task passes every block (Transfusion, arXiv 2408.11039; Emu3,
            Chameleon).
    Y       The first blocks are shared. Behind the fork a sequence of generation passes the twins, which have another
            final norm, and a sequence of understanding passes the trunk's blocks. A sequence is of one task, so that
            the branches never attend to each other (UniFork, arXiv 2506.17202).
    X       At both ends image tokens pass the twins and text tokens the trunk's blocks, in both tasks, and neither
            attends to the other there; each token keeps its place in the sequence. In the middle all are together.
            There is one final norm, as in the code released with the paper (Uni-X, arXiv 2509.24365).

    Parameters
    ----------
    config : LlamaConfig
        The text model.
    plan : BridgePlan
        A plan of one trunk, for the depth of the config.

    Attributes
    ----------
    apart : list of int
        The blocks that are not shared.

    Raises
    ------
    ValueError
        The plan is of a layout with two towers, or of another depth.
    """

    def __init__(self, config: LlamaConfig, plan: BridgePlan) -> None:
        if plan.layout not in TRUNKS:
            raise ValueError(
                f"the layout {plan.layout!r} joins two towers: build a FusedModel, or plan one of {', '.join(TRUNKS)}"
            )
        if config.num_hidden_layers != plan.understanding_layers:
            raise ValueError(
                f"the plan is for a trunk of {plan.understanding_layers} blocks, the text model has "
                f"{config.num_hidden_layers}: plan for that depth"
            )
        super().__init__(config)
        self.layout = plan.layout
        shared = {i for i, _ in plan.pairs}
        self.apart = [i for i in range(config.num_hidden_layers) if i not in shared]
        self.own_layers = nn.ModuleDict({str(i): LlamaDecoderLayer(config, i) for i in self.apart})
        if plan.layout == "Y":
            self.own_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def twin(self) -> list[str]:
        """Make the twins copies of the trunk's blocks and norm; return the names of their parameters."""
        for number, layer in self.own_layers.items():
            layer.load_state_dict(self.layers[int(number)].state_dict())
        if self.layout == "Y":
            self.own_norm.load_state_dict(self.norm.state_dict())
        return [name for name, _ in self.named_parameters() if name.startswith("own_")]

    def forward(self, tokens: TrunkTokens, generation: bool, cache: Cache | None = None) -> Tensor:
        """Return the normed states (batch, token, dim) behind the last block.

        Parameters
        ----------
        tokens : TrunkTokens
            The sequence. Its rotary positions count the tokens that are no padding.
        generation : bool
            Whether to take the branch of generation in a Y.
        cache : Cache, optional
            An empty one, which is filled for `step`.
        """
        states = tokens.states
        angles = self.rotary_emb(states, (tokens.places.real.cumsum(1) - 1).clamp(min=0))
        mask = visible(tokens.places, tokens.places)
        parts = (
            [_modality_rows(kind, mask, angles) for kind in (~tokens.image, tokens.image)] if self.layout == "X" else []
        )
        for number, layer in enumerate(self.layers):
            own = self._own(number)
            if own is not None and parts:
                states = _run_block_on(layer, states, parts[0], None)  # no text follows an image that is drawn
                states = _run_block_on(own, states, parts[1], cache)
            else:
                block = own if own is not None and generation else layer
                states = block(states, attention_mask=mask[:, None], position_embeddings=angles, past_key_values=cache)
        return self._normed(states, generation)

    def step(self, state: Tensor, before: Tensor, cache: Cache) -> Tensor:
        """Return the normed state (batch, 1, dim) of the next token of an image, which sees all that is in the cache.

        Parameters
        ----------
        state : Tensor
            The token, (batch, 1, dim).
        before : Tensor
            (batch, token), True for the tokens before it, False for their padding.
        cache : Cache
            What `forward` filled.
        """
        angles = self.rotary_emb(state, before.sum(1, keepdim=True))
        mask = nn.functional.pad(before, (0, 1), value=True)[:, None, None]
        for number, layer in enumerate(self.layers):
            own = self._own(number)
            images_alone = own is not None and self.layout == "X"  # which are never padded
            block = layer if own is None else own
            state = block(
                state,
                attention_mask=None if images_alone else mask,
                position_embeddings=angles,
                past_key_values=cache,
            )
        return self._normed(state, generation=True)

    def _own(self, number: int) -> nn.Module | None:
        """Return a block's twin, if it has one."""
        return self.own_layers[str(number)] if number in self.apart else None

    def _normed(self, states: Tensor, generation: bool) -> Tensor:
        return self.own_norm(states) if generation and self.layout == "Y" else self.norm(states)


def sequence_places(image: Tensor, apart: bool) -> Tensor:
    """Return the places of tokens in their sequence.

    Parameters
    ----------
    image : Tensor
        (batch, token), True for tokens of an image.
    apart : bool
        Whether each token of an image has its own place. Else they share that of the first.

    Returns
    -------
    Tensor
        (batch, token), whole numbers.
    """
    steps = torch.arange(image.shape[1], device=image.device).expand(image.shape)
    if apart:
        return steps
    first = image & ~nn.functional.pad(image[:, :-1], (1, 0))
    return torch.where(image, torch.where(first, steps, 0).cummax(1).values, steps)


def _modality_rows(kind: Tensor, mask: Tensor, angles: tuple[Tensor, Tensor]) -> _ModalityRows:
    """Pick the tokens of one kind, (batch, token), out of every row."""
    count = int(kind.sum(1).max())
    index = kind.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    real = kind.gather(1, index)
    rows = mask.gather(1, index[..., None].expand(-1, -1, mask.shape[2]))
    among = rows.gather(2, index[:, None].expand(-1, count, -1)) & real[:, None]
    # Where a row has fewer tokens, the others that were picked see themselves: a softmax over nothing is no number.
    among = among | torch.eye(count, dtype=torch.bool, device=kind.device)
    picked = [angle.expand(len(kind), -1, -1).gather(1, _index_of_dims(index, angle)) for angle in angles]
    return _ModalityRows(index, real, among[:, None], (picked[0], picked[1]))


def _run_block_on(block: nn.Module, states: Tensor, part: _ModalityRows, cache: Cache | None) -> Tensor:
    """Let the tokens of one modality pass a block; the others stay as they are."""
    if not part.index.shape[1]:
        return states
    index = _index_of_dims(part.index, states)
    before = states.gather(1, index)
    after = block(before, attention_mask=part.mask, position_embeddings=part.angles, past_key_values=cache)
    return states.scatter(1, index, torch.where(part.real[..., None], after, before).to(states.dtype))


def _index_of_dims(index: Tensor, like: Tensor) -> Tensor:
    """Repeat an index of tokens (batch, picked) for every dim of `like`."""
    return index[..., None].expand(-1, -1, like.shape[-1])


def check_parts(plan: BridgePlan, config: Any, tokenizer: Any) -> None:
    """Raise the error that says why no unified model can be made of these.

    Parameters
    ----------
    plan : BridgePlan
        The plan.
    config : LlavaConfig
        The config.
    tokenizer : PreTrainedTokenizerFast
        The tokenizer.

    Raises
    ------
    TypeError
        One of them is of another class.
    ValueError
        The text model is no Llama, or the tokenizer lacks a token.
    """
    if not isinstance(plan, BridgePlan):
        raise TypeError(f"the plan is a {type(plan).__name__}: expected a BridgePlan of one trunk, as lay_out makes it")
    if not isinstance(config, LlavaConfig):
        raise TypeError(f"the config is a {type(config).__name__}: expected a LlavaConfig, that of scenes-vlm")
    if not hasattr(tokenizer, "get_vocab"):
        raise TypeError(f"the tokenizer is a {type(tokenizer).__name__}: expected one of transformers")
    kind = config.get_text_config().model_type
    if kind != "llama":
        raise ValueError(f"a trunk is made of the blocks of a Llama, the config's text model is {kind!r}")
    image = tokenizer.get_vocab().get(IMAGE)
    known = {
        "begin token": tokenizer.bos_token_id,
        "end token": tokenizer.eos_token_id,
        "padding token": tokenizer.pad_token_id,
        f"{IMAGE!r}": image,
    }
    if missing := [name for name, token in known.items() if token is None]:
        raise ValueError(f"the tokenizer has no {missing[0]}: give it that of scenes-vlm")
    if image != config.image_token_id:
        raise ValueError(
            f"{IMAGE!r} is token {image} of the tokenizer and {config.image_token_id} of the config: "
            "give the two of one expert"
        )
