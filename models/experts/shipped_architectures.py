"""Our own small experts: ordinary transformers and diffusers classes, and the recipe that trained each of them.

`scenes-vlm`, the understanding expert, is a `LlavaForConditionalGeneration` (4 vision blocks, 16 text blocks 128 wide).
`scenes-dit`, the generation expert, is an `SD3Transformer2DModel` (13 blocks 96 wide, image and text streams) over
pixels in patches of 4, with a 2-block `T5EncoderModel` as its text encoder.

    bridgework train scenes-vlm FOLDER          (likewise scenes-dit; both resume where they were stopped)

The generation expert predicts the clean image and is trained on the error of the velocity that follows from it
(rectified flow, Liu et al. 2022; predicting the image: Li and He 2025, arXiv 2511.13720): with `z = t noise + (1 - t)
image`, the velocity is `(z - image) / t`. Its pooled vector is zero always, so that text reaches it through its text
stream alone.
"""

from __future__ import annotations

from diffusers import SD3Transformer2DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from ...probes.stimuli.sources import load_stimuli
from ..scenes.dialogues import IMAGE, IMAGE_TOKENS
from ..scenes.scene import COLOURS, COUNTS, PLURAL, QUARTERS, RELATIONS, SHAPES, SIZE

# ---------------------------------------------------------------------------------------------------- text


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-piece tokenizer in which every scene word is one token; emoji names fall into pieces."""
    words = [
        *SHAPES,
        *PLURAL.values(),
        *COLOURS,
        *COUNTS,
        *RELATIONS,
        *QUARTERS,
    ]
    words += [
        "a",
        "and",
        ",",
        "?",
        ":",
        "is there",
        "how many",
        "what colour is the",
        "where is the from",
        "yes no",
        "describe name",
    ]
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    special = ["<pad>", "<s>", "</s>", "<unk>", IMAGE]
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(words * 1000 + [s.text for s in load_stimuli("noto")], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=[IMAGE], model_max_length=64,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- models


def build_vlm(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4,
        "num_attention_heads": 5, "image_size": SIZE, "patch_size": 8, "vision_use_head": False,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 352,
        "num_hidden_layers": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128,
        "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS, vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def build_dit() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=SIZE, patch_size=4, in_channels=3, out_channels=3, num_layers=13, attention_head_dim=24,
        num_attention_heads=4, joint_attention_dim=96, caption_projection_dim=96, pooled_projection_dim=32,
        pos_embed_max_size=8, qk_norm="rms_norm",
    )  # fmt: skip


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=96, d_kv=24, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=2, is_encoder_decoder=False,
    )  # fmt: skip
    return T5EncoderModel(config)


# ---------------------------------------------------------------------------------------------------- batches
