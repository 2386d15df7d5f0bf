"""Small stand-ins for research checkouts: the module names and call patterns of the public repositories.

Show-o (showlab/Show-o: models, training/prompting_utils.py) and Janus-Pro (deepseek-ai/Janus: janus/models). What the
repositories leave to flash attention is dense attention here. BAGEL's is in tests/models/bagel_stand_in.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from .tiny_pipelines import tokenizer

DIM, LAYERS, SIDE = 16, 3, 16


def to_tensor(image: Any, resolution: int = SIDE) -> Tensor:
    """Return an image as (3, row, column) in -1..1."""
    return torch.from_numpy(np.array(image.resize((resolution, resolution)))).permute(2, 0, 1).float() / 127.5 - 1


# ---- Show-o: one language model over words and image codes, causal in words and full in images


class UniversalPrompting:
    def __init__(self, text_tokenizer: Any, max_text_len: int = 20):
        self.text_tokenizer, self.max_text_len = text_tokenizer, max_text_len + 1
        text_tokenizer.add_tokens(["[PAD]", "<|soi|>", "<|eoi|>", "<|t2i|>", "<|mmu|>"])
        names = ("<|soi|>", "<|eoi|>", "<|t2i|>", "<|mmu|>")
        self.sptids_dict = {n: torch.tensor(text_tokenizer.convert_tokens_to_ids([n])) for n in names}
        self.sptids_dict["<|sot|>"] = torch.tensor([text_tokenizer.bos_token_id])
        self.sptids_dict["<|eot|>"] = torch.tensor([text_tokenizer.eos_token_id])
        self.sptids_dict["<|pad|>"] = torch.tensor([text_tokenizer.convert_tokens_to_ids("[PAD]")])

    def __call__(self, given: tuple[Any, Any], task: str) -> tuple[Tensor, ...]:
        text_first = task == "t2i_gen"
        texts, codes = given if text_first else reversed(given)
        named = {name: int(value) for name, value in self.sptids_dict.items()}
        rows = []
        for ids, image in zip(self.text_tokenizer(texts).input_ids, codes.tolist()):
            text = [named["<|sot|>"], *ids, named["<|eot|>"]]
            framed = [named["<|soi|>"], *image, named["<|eoi|>"]]
            if text_first:
                text = [named["<|t2i|>"], *text]
                rows.append([named["<|pad|>"]] * (self.max_text_len - len(text)) + text + framed)
            else:
                rows.append(
                    [named["<|mmu|>"], *framed, *text] + [named["<|pad|>"]] * (self.max_text_len - 1 - len(text))
                )
        ids = torch.tensor(rows)
        return (ids, torch.ones_like(ids)) if text_first else (ids, torch.ones_like(ids), ids)


def inverted(visible: Tensor) -> Tensor:
    """Return 0 where a token is visible and the most negative integer where not, as the repository's masks are."""
    return torch.zeros(visible.shape, dtype=torch.long).masked_fill(~visible, torch.iinfo(torch.long).min)


def create_attention_mask_predict_next(sequence, pad_id, soi_id, eoi_id, rm_pad_in_image=False):
    starts, ends = (sequence == soi_id).cumsum(1), (sequence == eoi_id).cumsum(1)
    image = (starts > ends) | (sequence == eoi_id)
    length = sequence.shape[1]
    visible = torch.ones(length, length, dtype=torch.bool).tril()[None].repeat(len(sequence), 1, 1)
    visible[image] = True
    if rm_pad_in_image:
        pad = sequence == pad_id
        visible &= ~(~pad[:, :, None] & pad[:, None, :])
    return inverted(visible[:, None])


def create_attention_mask_for_mmu(sequence, eoi_id):
    length = sequence.shape[1]
    visible = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(sequence), 1, 1, 1)
    visible[:, :, :, : torch.where(sequence == eoi_id)[1][0] + 1] = True
    return inverted(visible)


class Showo(nn.Module):
    def __init__(self, vocab_size: int):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=vocab_size - 1)
        self.showo = PhiForCausalLM(
            PhiConfig(vocab_size=vocab_size, hidden_size=DIM, intermediate_size=24, num_hidden_layers=LAYERS,
                      num_attention_heads=2, attn_implementation="eager")
        )  # fmt: skip

    def forward(self, input_ids, input_embeddings=None, attention_mask=None, **more):
        mask = None if attention_mask is None else attention_mask.float()
        return self.showo(input_ids=input_ids, attention_mask=mask)["logits"]


class MagvitStandIn(nn.Module):
    """16 codes an image, 32 of them in the book."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 32, 4, stride=4)

    def get_code(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels).argmax(1).flatten(1)


def showo() -> dict[str, Any]:
    torch.manual_seed(1)
    prompting = UniversalPrompting(tokenizer((None, None)))
    model = Showo(len(prompting.text_tokenizer) + 32 + 1).eval()
    return {"model": model, "vq_model": MagvitStandIn().eval(), "uni_prompting": prompting, "transform": to_tensor}


# ---- Janus-Pro: a language model with one encoder to read with and another one to draw with


class GenVision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 32, 4, stride=4)

    def encode(self, pixels: Tensor) -> tuple[Any, Any, tuple[Any, Any, Tensor]]:
        codes = self.encoder(pixels).argmax(1)
        return None, (None, None, None, None), (None, None, codes.flatten())


class PatchTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return self.patches(images).flatten(2).transpose(1, 2)


class MultiModalityCausalLM(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.vision_model, self.aligner = PatchTower(), nn.Linear(12, DIM)
        self.gen_vision_model, self.gen_aligner = GenVision(), nn.Linear(8, DIM)
        self.gen_embed, self.gen_head = nn.Embedding(32, 8), nn.Linear(DIM, 32)
        self.language_model = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocabulary, hidden_size=DIM, intermediate_size=24, num_hidden_layers=LAYERS,
                        num_attention_heads=2, num_key_value_heads=1)
        )  # fmt: skip

    def prepare_inputs_embeds(self, input_ids, pixel_values, images_seq_mask, images_emb_mask):
        embeds = self.language_model.get_input_embeddings()(input_ids)
        images = self.aligner(self.vision_model(pixel_values.flatten(0, 1)))
        embeds[images_seq_mask] = images.unflatten(0, pixel_values.shape[:2]).flatten(1, 2)[images_emb_mask.flatten(1)]
        return embeds

    def prepare_gen_img_embeds(self, image_ids):
        return self.gen_aligner(self.gen_embed(image_ids))


def janus() -> dict[str, Any]:
    torch.manual_seed(2)
    words = tokenizer(("<s>", None))
    tags = ["<image_placeholder>", "<begin_of_image>", "<end_of_image>", "[pad]"]
    words.add_special_tokens({"additional_special_tokens": tags})
    image, start, end, pad = words.convert_tokens_to_ids(tags)

    def process(images: Any, return_tensors: str) -> SimpleNamespace:
        return SimpleNamespace(pixel_values=torch.stack([to_tensor(image) for image in images]))

    processor = SimpleNamespace(
        tokenizer=words, image_id=image, image_start_id=start, image_end_id=end, pad_id=pad, num_image_tokens=16,
        image_processor=process,
    )  # fmt: skip
    return {"model": MultiModalityCausalLM(len(words)).eval(), "processor": processor}
