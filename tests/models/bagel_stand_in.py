"""A small stand-in for BAGEL (ByteDance-Seed/Bagel: modeling/bagel): the repository's module names and call patterns.

One packed sequence, understanding and generation weights in every layer, a cache between calls. What the repository
leaves to flash attention is dense attention here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .stand_ins import DIM, LAYERS, to_tensor
from .tiny_pipelines import tokenizer


class NaiveCache:
    def __init__(self, num_layers: int):
        self.key_cache = dict.fromkeys(range(num_layers))
        self.value_cache = dict.fromkeys(range(num_layers))


class MoTAttention(nn.Module):
    def __init__(self, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(DIM, DIM))
            setattr(self, f"{name}_moe_gen", nn.Linear(DIM, DIM))


class MoTDecoderLayer(nn.Module):
    """Training returns a tensor, inference a tuple of the packed queries and the cache."""

    def __init__(self, layer_idx: int):
        super().__init__()
        self.self_attn = MoTAttention(layer_idx)
        for name in ("", "_moe_gen"):
            setattr(self, f"mlp{name}", nn.Sequential(nn.Linear(DIM, 24), nn.SiLU(), nn.Linear(24, DIM)))
            setattr(self, f"input_layernorm{name}", nn.RMSNorm(DIM))
            setattr(self, f"post_attention_layernorm{name}", nn.RMSNorm(DIM))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward_train(*args, **kwargs) if self.training else self.forward_inference(*args, **kwargs)

    def routed(self, owner: nn.Module, name: str, x: Tensor, gen: Tensor) -> Tensor:
        """Pass generation tokens through the weights of generation, the others through those of understanding."""
        in_generation = torch.zeros(len(x), 1, dtype=torch.bool).index_fill(0, gen, True)
        return torch.where(in_generation, getattr(owner, f"{name}_moe_gen")(x), getattr(owner, name)(x))

    def forward_train(self, packed_sequence, sample_lens, attention_mask, positions, packed_und_token_indexes,
                      packed_gen_token_indexes):  # fmt: skip
        x, attn, gen = packed_sequence, self.self_attn, packed_gen_token_indexes
        normed = self.routed(self, "input_layernorm", x, gen)
        q, k, v = (self.routed(attn, f"{name}_proj", normed, gen) for name in "qkv")
        parts = [F.scaled_dot_product_attention(*(part[None] for part in three), attn_mask=mask)[0] for *three, mask in
                 zip(*((y.split(sample_lens)) for y in (q + positions, k + positions, v)), attention_mask)]  # fmt: skip
        x = x + self.routed(attn, "o_proj", torch.cat(parts), gen)
        return x + self.routed(self, "mlp", self.routed(self, "post_attention_layernorm", x, gen), gen)

    def forward_inference(self, packed_query_sequence, query_lens, positions, packed_query_indexes, past_key_values,
                          key_values_lens, packed_key_value_indexes, update_past_key_values, is_causal, mode="und",
                          packed_vae_token_indexes=None, packed_text_indexes=None):  # fmt: skip
        x, attn = packed_query_sequence, self.self_attn
        gen = packed_vae_token_indexes if mode == "gen" else torch.zeros(0, dtype=torch.long)
        normed = self.routed(self, "input_layernorm", x, gen)
        q, k, v = (self.routed(attn, f"{name}_proj", normed, gen) for name in "qkv")
        q, k, lens = q + positions, k + positions, query_lens
        past = past_key_values.key_cache[attn.layer_idx], past_key_values.value_cache[attn.layer_idx]
        if past[0] is not None:
            lens = query_lens + key_values_lens
            merged = []
            for old, new in zip(past, (k, v)):
                whole = new.new_zeros(int(lens.sum()), DIM)
                whole[packed_query_indexes], whole[packed_key_value_indexes] = new, old
                merged.append(whole)
            k, v = merged
        parts = []
        sizes = query_lens.tolist(), lens.tolist(), lens.tolist()
        for one, keys, values in zip(*(y.split(n) for y, n in zip((q, k, v), sizes))):
            visible = torch.ones(len(one), len(keys), dtype=torch.bool)
            mask = visible.tril(len(keys) - len(one)) if is_causal else visible
            parts.append(F.scaled_dot_product_attention(one[None], keys[None], values[None], attn_mask=mask)[0])
        x = x + self.routed(attn, "o_proj", torch.cat(parts), gen)
        x = x + self.routed(self, "mlp", self.routed(self, "post_attention_layernorm", x, gen), gen)
        if update_past_key_values:
            past_key_values.key_cache[attn.layer_idx], past_key_values.value_cache[attn.layer_idx] = k, v
        return x, past_key_values


class MoTModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(300, DIM)
        self.layers = nn.ModuleList(MoTDecoderLayer(i) for i in range(LAYERS))
        self.norm, self.norm_moe_gen = nn.RMSNorm(DIM), nn.RMSNorm(DIM)
        self.rotary_emb = nn.Embedding(300, DIM)  # stands in for rotary positions: added to queries and keys

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward_train(*args, **kwargs) if self.training else self.forward_inference(*args, **kwargs)

    def forward_train(self, packed_sequence, packed_position_ids, **more):
        for layer in self.layers:
            packed_sequence = layer(packed_sequence, positions=self.rotary_emb(packed_position_ids), **more)
        return self.norm(packed_sequence)

    def forward_inference(self, packed_query_sequence, packed_query_position_ids, past_key_values, **more):
        x, positions = packed_query_sequence, self.rotary_emb(packed_query_position_ids)
        for layer in self.layers:
            x, past_key_values = layer(
                packed_query_sequence=x, positions=positions, past_key_values=past_key_values, **more
            )
        return SimpleNamespace(packed_query_sequence=self.norm(x), past_key_values=past_key_values)


class MoTForCausalLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = MoTModel()
        self.lm_head = nn.Linear(DIM, 300, bias=False)

    def forward_inference(self, **given: Any) -> Any:
        return self.model(**given)


class Bagel(nn.Module):
    latent_patch_size, latent_channel, latent_downsample, vit_patch_size = 2, 4, 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(llm_config=SimpleNamespace(num_hidden_layers=LAYERS))
        self.language_model = MoTForCausalLM()
        self.vit_model = nn.Linear(3 * 8 * 8, 12)
        self.connector = nn.Linear(12, DIM)
        self.vit_pos_embed, self.latent_pos_embed = nn.Embedding(64, DIM), nn.Embedding(64, DIM)
        self.time_embedder = nn.Sequential(nn.Linear(1, DIM), nn.Tanh())
        self.vae2llm, self.llm2vae = nn.Linear(16, DIM), nn.Linear(DIM, 16)

    def packed(self, kvlens, ropes, sizes, shared):
        """Return what every `prepare_*` says of queries behind cached keys and values, of these sizes and lengths."""
        lens, starts = torch.tensor(sizes), torch.tensor(kvlens)
        ends = (lens + starts).cumsum(0)
        queries = torch.cat([torch.arange(e - n, e) for e, n in zip(ends.tolist(), sizes)])
        keys = torch.cat([torch.arange(e - n - k, e - n) for e, n, k in zip(ends.tolist(), sizes, kvlens)])
        positions = torch.cat([torch.full((n,), r) if shared else torch.arange(r, r + n) for n, r in zip(sizes, ropes)])
        return lens, queries, keys, positions, starts

    def prepare_prompts(self, curr_kvlens, curr_rope, prompts, tokenizer, new_token_ids):
        ids = [[new_token_ids["bos_token_id"], *tokenizer.encode(p), new_token_ids["eos_token_id"]] for p in prompts]
        lens, queries, keys, positions, starts = self.packed(curr_kvlens, curr_rope, [len(i) for i in ids], False)
        given = {"text_token_lens": lens, "packed_text_ids": torch.tensor([i for row in ids for i in row]),
                 "key_values_lens": starts,
                 "packed_text_position_ids": positions, "packed_text_indexes": queries,
                 "packed_key_value_indexes": keys}  # fmt: skip
        return given, (lens + starts).tolist(), [r + len(i) for r, i in zip(curr_rope, ids)]

    def forward_cache_update_text(self, past_key_values, packed_text_ids, packed_text_position_ids, text_token_lens,
                                  packed_text_indexes, packed_key_value_indexes, key_values_lens):  # fmt: skip
        return self.language_model.forward_inference(
            packed_query_sequence=self.language_model.model.embed_tokens(packed_text_ids), query_lens=text_token_lens,
            packed_query_position_ids=packed_text_position_ids, packed_query_indexes=packed_text_indexes,
            past_key_values=past_key_values, packed_key_value_indexes=packed_key_value_indexes,
            key_values_lens=key_values_lens, update_past_key_values=True, is_causal=True, mode="und",
        ).past_key_values  # fmt: skip

    def framed(self, curr_kvlens, curr_rope, counts, new_token_ids):
        """Pack images of `counts` tokens between their frame tokens as queries."""
        lens, queries, keys, positions, starts = self.packed(curr_kvlens, curr_rope, [n + 2 for n in counts], True)
        ends = lens.cumsum(0).tolist()
        frame = torch.tensor([place for end, n in zip(ends, counts) for place in (end - n - 2, end - 1)])
        inner = torch.cat([torch.arange(end - n - 1, end - 1) for end, n in zip(ends, counts)])
        ids = torch.tensor([new_token_ids["start_of_image"], new_token_ids["end_of_image"]] * len(counts))
        return inner, {"packed_text_ids": ids, "packed_text_indexes": frame, "packed_position_ids": positions,
                       "packed_seqlens": lens, "packed_indexes": queries, "packed_key_value_indexes": keys,
                       "key_values_lens": starts}  # fmt: skip

    def prepare_vit_images(self, curr_kvlens, curr_rope, images, transforms, new_token_ids):
        tokens = [F.unfold(transforms(image)[None], 8, stride=8)[0].T for image in images]
        counts = [len(patches) for patches in tokens]
        inner, given = self.framed(curr_kvlens, curr_rope, counts, new_token_ids)
        given |= {"packed_vit_tokens": torch.cat(tokens), "packed_vit_token_indexes": inner,
                  "packed_vit_position_ids": torch.cat([torch.arange(n) for n in counts]),
                  "vit_token_seqlens": torch.tensor(counts)}  # fmt: skip
        return given, (given["packed_seqlens"] + torch.tensor(curr_kvlens)).tolist(), [r + 1 for r in curr_rope]

    def seen(self, packed_vit_tokens, packed_vit_position_ids):
        return self.connector(self.vit_model(packed_vit_tokens)) + self.vit_pos_embed(packed_vit_position_ids)

    def queries(self, packed_text_ids, packed_text_indexes, inner, tokens):
        text = self.language_model.model.embed_tokens(packed_text_ids)
        packed = text.new_zeros(len(packed_text_ids) + len(inner), DIM)
        packed[packed_text_indexes], packed[inner] = text, tokens
        return packed

    def forward_cache_update_vit(self, past_key_values, packed_text_ids, packed_text_indexes, packed_vit_tokens,
                                 packed_vit_token_indexes, packed_vit_position_ids, vit_token_seqlens,
                                 packed_position_ids, packed_seqlens, packed_indexes, packed_key_value_indexes,
                                 key_values_lens):  # fmt: skip
        tokens = self.seen(packed_vit_tokens, packed_vit_position_ids)
        return self.language_model.forward_inference(
            packed_query_sequence=self.queries(packed_text_ids, packed_text_indexes, packed_vit_token_indexes, tokens),
            query_lens=packed_seqlens, packed_query_position_ids=packed_position_ids,
            packed_query_indexes=packed_indexes, past_key_values=past_key_values,
            packed_key_value_indexes=packed_key_value_indexes, key_values_lens=key_values_lens,
            update_past_key_values=True, is_causal=False, mode="und",
        ).past_key_values  # fmt: skip

    def prepare_vae_latent(self, curr_kvlens, curr_rope, image_sizes, new_token_ids):
        counts = [(h // self.latent_downsample) * (w // self.latent_downsample) for h, w in image_sizes]
        inner, given = self.framed(curr_kvlens, curr_rope, counts, new_token_ids)
        return given | {"packed_init_noises": torch.randn(sum(counts), 16), "packed_vae_token_indexes": inner,
                        "packed_vae_position_ids": torch.cat([torch.arange(n) for n in counts])}  # fmt: skip

    def drawn(self, x_t, timestep, packed_vae_position_ids):
        return (
            self.vae2llm(x_t) + self.time_embedder(timestep[:, None]) + self.latent_pos_embed(packed_vae_position_ids)
        )

    def _forward_flow(self, x_t, timestep, packed_vae_token_indexes, packed_vae_position_ids, packed_text_ids,
                      packed_text_indexes, packed_indexes, packed_position_ids, packed_seqlens, key_values_lens,
                      past_key_values, packed_key_value_indexes, cfg_text_scale=1.0):  # fmt: skip
        tokens = self.drawn(x_t, timestep, packed_vae_position_ids)
        output = self.language_model.forward_inference(
            packed_query_sequence=self.queries(packed_text_ids, packed_text_indexes, packed_vae_token_indexes, tokens),
            query_lens=packed_seqlens, packed_query_position_ids=packed_position_ids,
            packed_query_indexes=packed_indexes, past_key_values=past_key_values,
            packed_key_value_indexes=packed_key_value_indexes, key_values_lens=key_values_lens,
            update_past_key_values=False, is_causal=False, mode="gen",
            packed_vae_token_indexes=packed_vae_token_indexes, packed_text_indexes=packed_text_indexes,
        )  # fmt: skip
        return self.llm2vae(output.packed_query_sequence)[packed_vae_token_indexes]


class BagelVae(nn.Module):
    """An autoencoder that samples its code unless `reg.sample` is False."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 2, stride=2)
        self.reg = SimpleNamespace(sample=True)

    def encode(self, images: Tensor) -> Tensor:
        code = self.encoder(images)
        return code + torch.randn_like(code) if self.reg.sample else code


def bagel() -> SimpleNamespace:
    """Build an `InterleaveInferencer`: the model and what goes with it."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 4, "eos_token_id": 5, "start_of_image": 6, "end_of_image": 3}
    return SimpleNamespace(
        model=Bagel().eval(), vae_model=BagelVae().eval(), tokenizer=tokenizer((None, None)), vae_transform=to_tensor,
        vit_transform=to_tensor, new_token_ids=ids,
    )  # fmt: skip
