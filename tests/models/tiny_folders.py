"""Whole checkpoint folders of each family's very architecture: tiny, random weights, with tokenizer and processor.

`write(architecture, folder)` writes one; another family is another entry of `FOLDERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as t
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "the", "red", "blue", "green", "circle", "ring", "cross", "and", *"0123456789*"]
VOCABULARY, IMAGE = 256, 200
SPECIAL = {0: "<pad>", 1: "<s>", 2: "</s>", 3: "<unk>", IMAGE: "<image>", IMAGE + 1: "<video>", IMAGE + 2: "<boi>",
    IMAGE + 3: "<eoi>", IMAGE + 4: "<wrapper>", IMAGE + 5: "<eof>", IMAGE + 6: "<eol>"}  # fmt: skip

TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}  # fmt: skip
BERT = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
VISION = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8, "initializer_range": 0.2}  # fmt: skip
SIDE = {"height": 32, "width": 32}


def tokenizer(begins: bool = False, ends: bool = False, **special: Any) -> t.PreTrainedTokenizerFast:
    """Words to ids; `special` names tokens as a family's tokenizer does (`boi_token`), or its `model_max_length`."""
    vocabulary = {**{word: i for i, word in enumerate(WORDS, 10)}, **{token: i for i, token in SPECIAL.items()}}
    vocabulary |= {f"word{i}": i for i in range(VOCABULARY) if i not in vocabulary.values()}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    row = ["<s>"] * begins + ["$A"] + ["</s>"] * ends
    plain.post_processor = processors.TemplateProcessing(single=" ".join(row), special_tokens=[("<s>", 1), ("</s>", 2)])
    named = {k: v for k, v in special.items() if k.endswith("_token")}
    return t.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens=named, **{k: v for k, v in special.items() if k not in named},
    )  # fmt: skip


def letters() -> t.Qwen3_5Tokenizer:
    """Qwen 3.5's tokenizer is rebuilt by its class whatever the file says: a letter a token, and none to begin with."""
    vocabulary = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ", 10)}
    return t.Qwen3_5Tokenizer(
        vocab=vocabulary | {token: i for i, token in SPECIAL.items()}, merges=[], eos_token="</s>", pad_token="<pad>"
    )


def squares(name: str, **options: Any) -> Callable[[], Any]:
    """An image processor by its name that makes 32 x 32 images."""
    return lambda: getattr(t, name)(**({"size": SIDE, "do_resize": True} | options))


CLIP_IMAGES = squares("CLIPImageProcessorPil", size={"shortest_edge": 32}, crop_size=SIDE)
SIGLIP_IMAGES = squares("SiglipImageProcessorPil")
QWEN_IMAGES = squares(
    "Qwen2VLImageProcessorPil", size={"shortest_edge": 256, "longest_edge": 1024}, patch_size=8, merge_size=2
)


class Dinov3Images:
    """DINOv3's processor exists for torchvision alone, so its file is written by hand."""

    def save_pretrained(self, path: Path) -> None:
        config = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": SIDE, "do_resize": True,
            "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "resample": 2}  # fmt: skip
        (path / "preprocessor_config.json").write_text(json.dumps(config))


def siglip(**options: Any) -> dict[str, Any]:
    return {"model_type": "siglip_vision_model", **VISION, **options}


def clip_vision() -> dict[str, Any]:
    return {"model_type": "clip_vision_model", "projection_dim": 24, **VISION}


def text(kind: str, **options: Any) -> dict[str, Any]:
    return {"model_type": kind, **TEXT, **options}


def rope(*sections: int, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **options}}


QWEN_EYES = {"depth": 3, "hidden_size": 32, "num_heads": 4, "patch_size": 8, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "in_channels": 3}  # fmt: skip
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": IMAGE + 1, "vision_start_token_id": IMAGE + 2,
    "vision_end_token_id": IMAGE + 3}  # fmt: skip
EYES = {**QWEN_EYES, "intermediate_size": 48, "out_hidden_size": 32}


def qwen2_vl() -> Any:
    eyes = {**QWEN_EYES, "embed_dim": 32, "mlp_ratio": 2}
    return t.Qwen2VLForConditionalGeneration(
        t.Qwen2VLConfig(vision_config=eyes, text_config=text("qwen2_vl_text", **rope(1, 1, 2)), **QWEN_IDS)
    )


def qwen2_5_vl() -> Any:
    eyes = {**EYES, "window_size": 32, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    return t.Qwen2_5_VLForConditionalGeneration(
        t.Qwen2_5_VLConfig(vision_config=eyes, text_config=text("qwen2_5_vl_text", **rope(1, 1, 2)), **QWEN_IDS)
    )


def qwen3_vl() -> Any:
    eyes = {**EYES, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    words = text("qwen3_vl_text", head_dim=8, **rope(2, 1, 1, mrope_interleaved=True))
    return t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(vision_config=eyes, text_config=words, **QWEN_IDS))


def qwen3_5() -> Any:
    eyes = {**EYES, "num_position_embeddings": 16}
    words = text(
        "qwen3_5_text", head_dim=16, layer_types=["linear_attention", "full_attention"] * 2, linear_key_head_dim=8,
        linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_conv_kernel_dim=2,
        **rope(1, 1, 0, mrope_interleaved=True, partial_rotary_factor=0.25),
    )  # fmt: skip
    return t.Qwen3_5ForConditionalGeneration(t.Qwen3_5Config(vision_config=eyes, text_config=words, **QWEN_IDS))


def llava() -> Any:
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=clip_vision(), text_config=text("llama"), image_token_index=IMAGE, image_seq_length=16,
            vision_feature_layer=-2, vision_feature_select_strategy="default",
        )
    )  # fmt: skip


def llava_onevision() -> Any:
    return t.LlavaOnevisionForConditionalGeneration(
        t.LlavaOnevisionConfig(
            vision_config=siglip(), text_config=text("qwen2"), image_token_index=IMAGE, video_token_index=IMAGE + 1,
            image_grid_pinpoints=[[32, 32], [32, 64]], vision_aspect_ratio="anyres_max_9",
        )
    )  # fmt: skip


def idefics(name: str) -> Callable[[], Any]:
    def build() -> Any:
        config = getattr(t, f"{name}Config")(
            vision_config=VISION, text_config=text("llama"), image_token_id=IMAGE, scale_factor=2
        )
        return getattr(t, f"{name}ForConditionalGeneration")(config)

    return build


def paligemma() -> Any:
    return t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(
            vision_config=siglip(vision_use_head=False, projection_dim=32), text_config=text("gemma", head_dim=8),
            image_token_index=IMAGE, projection_dim=32,
        )
    )  # fmt: skip


def gemma3() -> Any:
    config = t.Gemma3Config(
        vision_config=siglip(vision_use_head=False), mm_tokens_per_image=4, image_token_index=IMAGE,
        text_config=text("gemma3_text", head_dim=8, sliding_window=16), boi_token_index=IMAGE + 2,
        eoi_token_index=IMAGE + 3,
    )  # fmt: skip
    model = t.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # zero, and so blind, otherwise
    return model


def blip2() -> Any:
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}
    words = {"model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 32, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    return t.Blip2ForConditionalGeneration(
        t.Blip2Config(
            vision_config=VISION, text_config=words, num_query_tokens=4, image_token_index=IMAGE,
            qformer_config={**sizes, "vocab_size": VOCABULARY, "num_hidden_layers": 2, "encoder_hidden_size": 24,
                "cross_attention_frequency": 1},
        )
    )  # fmt: skip


def internvl() -> Any:
    eyes = {**VISION, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]}
    return t.InternVLForConditionalGeneration(
        t.InternVLConfig(vision_config=eyes, text_config=text("qwen2"), image_token_id=IMAGE, image_seq_length=4)
    )


def janus() -> Any:
    eyes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
        "projection_dim": 32, "num_image_tokens": 16, "depth": 2, "mlp_ratio": 2.0}  # fmt: skip
    codes = {"embed_dim": 8, "num_embeddings": 32, "latent_channels": 32, "in_channels": 3, "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1], "projection_dim": 32,
        "image_token_embed_dim": 32}  # fmt: skip
    return t.JanusForConditionalGeneration(
        t.JanusConfig(vision_config=eyes, text_config=text("llama"), vq_config=codes, image_token_id=IMAGE)
    )


def emu3() -> Any:
    names = {f"word {i}": i for i in range(VOCABULARY) if not 40 <= i < 60}
    names |= {f"<|visual token {i:06d}|>": 40 + i for i in range(20)} | {"<image>": IMAGE, "<|extra_200|>": IMAGE + 6}
    codes = {"codebook_size": 20, "temporal_downsample_factor": 1, "base_channels": 32, "channel_multiplier": [1, 1],
        "hidden_size": 32, "num_attention_heads": 1}  # fmt: skip
    words = {k: v for k, v in TEXT.items() if k != "max_position_embeddings"}
    return t.Emu3ForConditionalGeneration(
        t.Emu3Config(vq_config=codes, text_config={**words, "max_position_embeddings": 512}, vocabulary_map=names)
    )


def chameleon() -> Any:
    names = {f"IMGIMG{''.join(chr(ord('A') + int(digit)) for digit in str(i))}Z": 40 + i for i in range(20)}
    codes = {"embed_dim": 12, "num_embeddings": 20, "latent_channels": 12, "in_channels": 3, "base_channels": 32,
        "channel_multiplier": [1, 4], "resolution": 32}  # fmt: skip
    config = t.ChameleonConfig(**TEXT, vocabulary_map={**names, "<image>": IMAGE}, vq_config=codes)
    return t.ChameleonForConditionalGeneration(config)


def clip() -> Any:
    eyes, words = {"projection_dim": 24, **VISION}, {**BERT, "max_position_embeddings": 32}
    return t.CLIPModel(t.CLIPConfig(text_config=words, vision_config=eyes, projection_dim=16))


def siglip_model() -> Any:
    words = {**BERT, "hidden_size": 24, "max_position_embeddings": 16, "projection_size": 24}
    return t.SiglipModel(t.SiglipConfig(text_config=words, vision_config=siglip()))


def dinov3() -> Any:
    eyes = {**VISION, "hidden_size": 32, "num_register_tokens": 2}
    return t.DINOv3ViTModel(t.DINOv3ViTConfig(**eyes))


def framed() -> Any:
    return tokenizer(image_token="<image>", boi_token="<boi>", eoi_token="<eoi>", image_wrapper_token="<wrapper>",
        eof_token="<eof>")  # fmt: skip


BART = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2}  # fmt: skip

# Every entry: what is saved into the folder, the model first.
FOLDERS: dict[str, tuple[Callable[[], Any], ...]] = {
    "LlamaForCausalLM": (lambda: t.LlamaForCausalLM(t.LlamaConfig(**TEXT)), tokenizer),
    "Qwen3ForCausalLM": (lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**TEXT, head_dim=8)), tokenizer),
    "GPT2LMHeadModel": (
        lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
        tokenizer,
    ),
    "BertModel": (lambda: t.BertModel(t.BertConfig(**BERT)), partial(tokenizer, begins=True, ends=True)),
    "T5ForConditionalGeneration": (
        lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
        ),
        partial(tokenizer, ends=True),
    ),
    "BartModel": (lambda: t.BartModel(t.BartConfig(**BART)), partial(tokenizer, begins=True, ends=True)),
    "ViTModel": (lambda: t.ViTModel(t.ViTConfig(**VISION)), squares("ViTImageProcessorPil")),
    "Dinov2Model": (lambda: t.Dinov2Model(t.Dinov2Config(**VISION)), squares("BitImageProcessorPil", crop_size=SIDE)),
    "DINOv3ViTModel": (dinov3, Dinov3Images),
    "CLIPModel": (clip, partial(tokenizer, begins=True, ends=True), CLIP_IMAGES),
    "SiglipModel": (siglip_model, partial(tokenizer, ends=True), SIGLIP_IMAGES),
    "LlavaForConditionalGeneration": (llava, tokenizer, CLIP_IMAGES),
    "LlavaOnevisionForConditionalGeneration": (
        llava_onevision,
        tokenizer,
        squares("LlavaOnevisionImageProcessorPil", image_grid_pinpoints=[[32, 32], [32, 64]]),
    ),
    "SmolVLMForConditionalGeneration": (
        idefics("SmolVLM"),
        tokenizer,
        squares("SmolVLMImageProcessorPil", size={"longest_edge": 32}, max_image_size={"longest_edge": 32}),
    ),
    "Idefics3ForConditionalGeneration": (
        idefics("Idefics3"),
        tokenizer,
        squares("Idefics3ImageProcessorPil", size={"longest_edge": 32}, max_image_size={"longest_edge": 32}),
    ),
    "PaliGemmaForConditionalGeneration": (paligemma, tokenizer, SIGLIP_IMAGES),
    "Gemma3ForConditionalGeneration": (gemma3, tokenizer, squares("Gemma3ImageProcessorPil")),
    "Qwen2VLForConditionalGeneration": (qwen2_vl, tokenizer, QWEN_IMAGES),
    "Qwen2_5_VLForConditionalGeneration": (qwen2_5_vl, tokenizer, QWEN_IMAGES),
    "Qwen3VLForConditionalGeneration": (qwen3_vl, tokenizer, QWEN_IMAGES),
    "Qwen3_5ForConditionalGeneration": (qwen3_5, letters, QWEN_IMAGES),
    "Blip2ForConditionalGeneration": (blip2, tokenizer, squares("BlipImageProcessorPil")),
    "InternVLForConditionalGeneration": (internvl, framed, squares("GotOcr2ImageProcessorPil")),
    "JanusForConditionalGeneration": (janus, framed, squares("JanusImageProcessorPil")),
    "Emu3ForConditionalGeneration": (
        emu3,
        framed,
        squares("Emu3ImageProcessor", min_pixels=64, max_pixels=64, spatial_factor=2),
    ),
    "ChameleonForConditionalGeneration": (
        chameleon,
        framed,
        squares("ChameleonImageProcessorPil", size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    ),
}


def write(architecture: str, path: Path) -> None:
    """A folder of this architecture, as its authors would have saved it."""
    torch.manual_seed(0)
    for part in FOLDERS[architecture]:
        part().save_pretrained(path)


def picture(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    """An image of noise, the same for a seed."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())
