"""Build our own small experts from random weights: ordinary transformers and diffusers classes.

`scenes-vlm`, the understanding expert, is a `LlavaForConditionalGeneration` (4 vision blocks, 16 text blocks 128 wide).
`scenes-reader` is the same model, trained further on captions that must be read (models/scenes/read_captions.py).
`scenes-dit` and `emoji-dit`, the generation experts, are `SD3Transformer2DModel`s (13 blocks 96 wide, image and text
streams) over pixels in patches of 4, each with a 2-block `T5EncoderModel` as its text encoder. `scenes-dit-wide` has 8
blocks 128 wide.

How each was trained is in models/training/pretraining.py; this does it again, and resumes a run that was stopped:

    bridgework train scenes-vlm runs/scenes-vlm

A generation expert predicts the clean image and is trained on the error of the velocity that follows from it
(rectified flow, Liu et al. 2022; predicting the image: Li and He 2025, arXiv 2511.13720): with `z = t noise + (1 - t)
image`, the velocity is `(z - image) / t` (models/generation/flow.py). Its pooled vector is zero always, so that text
reaches it through its text stream alone.
"""

from __future__ import annotations

from diffusers import SD3Transformer2DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from ...probes.stimuli.sources import load_stimuli
from ..scenes.dialogues import IMAGE, IMAGE_TOKENS
from ..scenes.scene import COLOURS, COUNTS, PLURAL, QUARTERS, RELATIONS, SHAPES, SIZE

# Blocks, heads and dims of a head.
DENOISERS = {"scenes-dit": (13, 4, 24), "scenes-dit-wide": (8, 4, 32), "emoji-dit": (13, 4, 24)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a word-piece tokenizer in which every scene word is one token; emoji names fall into pieces.

    Returns
    -------
    PreTrainedTokenizerFast
        1500 tokens at most.
    """
    words = [*SHAPES, *PLURAL.values(), *COLOURS, *COUNTS, *RELATIONS, *QUARTERS, "a", "and", ",", "?", ":"]
    words += ["is there", "how many", "what colour is the", "where is the from", "yes no", "describe name"]
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


def build_vlm(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Build the understanding expert.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        As `build_tokenizer` trains it.

    Returns
    -------
    LlavaForConditionalGeneration
        With random weights.
    """
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


def build_dit(name: str = "scenes-dit") -> SD3Transformer2DModel:
    """Build a generation expert's denoiser.

    Parameters
    ----------
    name : str
        A name of `DENOISERS`.

    Returns
    -------
    SD3Transformer2DModel
        With random weights.
    """
    blocks, heads, head_dim = DENOISERS[name]
    return SD3Transformer2DModel(
        sample_size=SIZE, patch_size=4, in_channels=3, out_channels=3, num_layers=blocks, attention_head_dim=head_dim,
        num_attention_heads=heads, joint_attention_dim=96, caption_projection_dim=heads * head_dim,
        pooled_projection_dim=32, pos_embed_max_size=8, qk_norm="rms_norm",
    )  # fmt: skip


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    """Build the generation expert's text encoder.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        As `build_tokenizer` trains it.

    Returns
    -------
    T5EncoderModel
        With random weights.
    """
    config = T5Config(
        vocab_size=len(tokenizer), d_model=96, d_kv=24, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=2, is_encoder_decoder=False,
    )  # fmt: skip
    return T5EncoderModel(config)
