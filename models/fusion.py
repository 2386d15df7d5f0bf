"""A fused model: two unmodified, frozen experts joined at the layers of a bridge plan by shared attention.

One way: generation reads understanding. The understanding tower runs once on the caption and its keys and values at the
bridged blocks are kept; the generation tower then runs, over all sampling steps, with hooks that hand them in. No
forward is rewritten: while a bridged block runs, its call of `scaled_dot_product_attention` is intercepted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..probes.bridges import BridgePlan
from ..probes.files import write_whole
from ..probes.intercept import Attention, intercepted
from .experts import DitExpert, LlavaExpert
from .tokens import pad

BRIDGES = ("shared-attention",)


class TextStates(NamedTuple):
    """What the understanding tower hands over: each bridge's keys, values (batch, head, token, dim), and the mask."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor  # (batch, token), True at the caption's tokens


class SharedAttention(nn.Module):
    """Joint attention of one bridge, in the understanding expert's head space (HBridge, arXiv 2511.20520).

    Linear maps take the generation block's queries, keys and values (`heads` x `head_dim`) into the understanding
    heads (`text_heads` x `text_head_dim`); one softmax runs over both experts' tokens; a fourth map takes the result
    back. Unlike HBridge's, the generation expert is frozen, so two maps adapt the text's keys and values to it.

        result = own + gate * (joint - own)

    The gate, one number per channel, is 0 at first: the untouched expert, bit for bit. The maps start as an embedding
    of head into head, in which joint attention over the block's own tokens alone would be its own attention (exactly,
    where the understanding heads are no fewer and no narrower): with random maps an open gate adds noise, and shuts.
    """

    def __init__(self, heads: int, head_dim: int, text_heads: int, text_head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = text_heads, text_head_dim
        width, text_width = heads * head_dim, text_heads * text_head_dim
        self.query, self.key, self.value = (nn.Linear(width, text_width, bias=False) for _ in range(3))
        self.back = nn.Linear(text_width, width, bias=False)
        self.text_key, self.text_value = (nn.Linear(text_width, text_width, bias=False) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(width))
        embed = torch.zeros(text_heads, text_head_dim, heads, head_dim)
        for head in range(heads):
            embed[head % text_heads, :, head] = torch.eye(text_head_dim, head_dim)
        embed = embed.view(text_width, width)
        with torch.no_grad():
            self.query.weight.copy_(embed * (text_head_dim / head_dim) ** 0.5)  # softmax divides by the wider root
            self.key.weight.copy_(embed)
            self.value.weight.copy_(embed)
            self.back.weight.copy_(embed.T)
            nn.init.eye_(self.text_key.weight)
            nn.init.eye_(self.text_value.weight)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, own: Tensor, text_key: Tensor, text_value: Tensor, mask: Tensor
    ) -> Tensor:
        """query, own (batch, head, query token, dim); key, value (batch, head, token, dim); text as in `TextStates`."""
        joint_key = torch.cat([self._map(self.key, key), self._map(self.text_key, text_key)], dim=2)
        joint_value = torch.cat([self._map(self.value, value), self._map(self.text_value, text_value)], dim=2)
        seen = F.pad(mask, (key.shape[2], 0), value=True)[:, None, None]  # (batch, 1, 1, token of both)
        joint = F.scaled_dot_product_attention(self._map(self.query, query), joint_key, joint_value, attn_mask=seen)
        joint = self.back(joint.transpose(1, 2).flatten(2))  # (batch, token, width)
        joint = joint.unflatten(2, (own.shape[1], own.shape[3])).transpose(1, 2)
        return own + self.gate.view(1, own.shape[1], 1, own.shape[3]) * (joint - own)

    def _map(self, linear: nn.Linear, states: Tensor) -> Tensor:
        return linear(states.transpose(1, 2).flatten(2)).unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)


class FusedModel(nn.Module):
    """An understanding and a generation expert, frozen, joined at the pairs of `plan`; only the bridges are trained.

    Text reaches the generator through the bridges alone: its own text stream holds the null caption always.

    >>> fused = FusedModel(open_expert("scenes-vlm"), open_expert("scenes-dit"), plan, bridge="shared-attention")
    >>> text = fused.condition(["a red circle"])                  # once
    >>> fused.predict(noisy, text, time)                          # at every sampling step

    Parameters
    ----------
    plan : its depths must be those of the two experts; `plan.stream` names the generator's tokens that read the text.

    Raises ValueError for experts that do not fit the plan, an unknown bridge or experts of other families.
    """

    def __init__(
        self, understanding: LlavaExpert, generation: DitExpert, plan: BridgePlan, bridge: str = "shared-attention"
    ) -> None:
        super().__init__()
        if bridge not in BRIDGES:
            raise ValueError(f"unknown bridge {bridge!r}: expected one of {', '.join(BRIDGES)}")
        if not isinstance(understanding, LlavaExpert) or not isinstance(generation, DitExpert):
            raise TypeError(
                "expected a LlavaExpert and a DitExpert, in this order, "
                f"got {type(understanding).__name__} and {type(generation).__name__}"
            )
        depths = (len(understanding.blocks), len(generation.blocks))
        if depths != (plan.understanding_layers, plan.generation_layers):
            raise ValueError(
                f"the plan is for towers of {plan.understanding_layers} and {plan.generation_layers} blocks, "
                f"{understanding.name} and {generation.name} have {depths[0]} and {depths[1]}: "
                "choose bridges for these experts"
            )
        self.plan, self.experts = plan, (understanding, generation)
        self.understanding, self.generation = understanding.model, generation.model
        self.text_encoder = generation.text_encoder
        self.requires_grad_(False)
        text = understanding.model.config.text_config
        own = generation.model.config
        text_head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        shape = own["num_attention_heads"], own["attention_head_dim"], text.num_attention_heads, text_head_dim
        self.bridges = nn.ModuleList(SharedAttention(*shape) for _ in plan.pairs)
        with torch.no_grad():
            self.register_buffer("null_text", generation.encode([""]).clone(), persistent=False)

    def train(self, mode: bool = True) -> FusedModel:
        """Only the bridges change mode: the frozen experts stay as they were when evaluated."""
        super().train(mode)
        for tower in (self.understanding, self.generation, self.text_encoder):
            tower.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.generation.device

    @torch.no_grad()
    def condition(self, captions: Sequence[str]) -> TextStates:
        """Run the understanding tower once on the captions and keep what the bridges read."""
        expert = self.experts[0]
        tokenizer = expert.tokenizer
        rows = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(list(captions), add_special_tokens=False).input_ids]
        ids, mask = pad(rows, tokenizer.pad_token_id, self.device)
        kept: dict[str, tuple[Tensor, Tensor]] = {}

        def keep(path: str) -> Callable[[dict[str, Any]], Attention]:
            def attend(
                original: Attention, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
            ) -> Tensor:
                shared = query.shape[1] // key.shape[1]  # grouped-query attention: several query heads to a key head
                kept[path] = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
                return original(query, key, value, *args, **kwargs)

            return lambda inputs: attend

        paths = [expert.blocks[i] for i, _ in self.plan.pairs]
        with intercepted(self.understanding, {path: keep(path) for path in paths}):
            self.understanding(input_ids=ids, attention_mask=mask)
        if missing := [path for path in paths if path not in kept]:
            raise ValueError(
                f"block {missing[0]!r} of {expert.name} does not attend through SDPA: "
                "load the expert with attn_implementation='sdpa'"
            )
        return TextStates([kept[p][0] for p in paths], [kept[p][1] for p in paths], mask.bool())

    def predict(self, noisy: Tensor, text: TextStates, time: Tensor) -> Tensor:
        """The clean image (batch, channel, row, column) that the bridged generator sees in `noisy` at `time`."""
        with self.bridged(text):
            return self.experts[1].predict(noisy, self.null_text.expand(len(noisy), -1, -1), time)

    @contextmanager
    def bridged(self, text: TextStates) -> Iterator[None]:
        """While the context lasts, the generation tower reads `text` at its bridged blocks."""

        def join(number: int) -> Callable[[dict[str, Any]], Attention]:
            def prepare(inputs: dict[str, Any]) -> Attention:
                images, texts = inputs["hidden_states"].shape[1], inputs["encoder_hidden_states"].shape[1]
                # MMDiT attention holds the image tokens first, then the text tokens (diffusers' JointAttnProcessor2_0).
                reads = {"image": slice(images), "text": slice(images, None), "both": slice(None)}[self.plan.stream]

                def attend(
                    original: Attention, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
                ) -> Tensor:
                    own = original(query, key, value, *args, **kwargs)
                    if query.shape[2] != images + texts:
                        return own  # a second attention of the image tokens among themselves (SD3.5)
                    joined = self.bridges[number](
                        query[:, :, reads],
                        key,
                        value,
                        own[:, :, reads],
                        text.keys[number],
                        text.values[number],
                        text.mask,
                    )
                    before, after = own[:, :, : reads.start or 0], own[:, :, reads.stop or own.shape[2] :]
                    return torch.cat([before, joined, after], dim=2)

                return attend

            return prepare

        paths = [self.experts[1].blocks[j] for _, j in self.plan.pairs]
        with intercepted(self.generation, {path: join(number) for number, path in enumerate(paths)}):
            yield

    def save(self, folder: str | Path) -> None:
        """Write the bridges and the plan, not the experts."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.bridges.state_dict().items()}
        write_whole(folder / "bridges.safetensors", lambda path: save_file(state, path))
        self.plan.save(folder / "plan.json")

    @classmethod
    def load(cls, folder: str | Path, understanding: LlavaExpert, generation: DitExpert) -> FusedModel:
        """Open what `save` wrote, on the same two experts. Raises FileNotFoundError or ValueError, naming the file."""
        fused = cls(understanding, generation, BridgePlan.load(Path(folder) / "plan.json"))
        path = Path(folder) / "bridges.safetensors"
        if not path.is_file():
            raise FileNotFoundError(
                f"no bridges in {os.fspath(folder)!r}: expected {path.name} beside plan.json, as FusedModel.save writes"
            )
        try:
            fused.bridges.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not hold the bridges of its plan: train again ({str(error).splitlines()[0]})"
            ) from None
        return fused
