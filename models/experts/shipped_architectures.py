"""Our own small experts: ordinary transformers and diffusers classes, and the recipe that trained each of them.

`scenes-vlm`, the understanding expert, is a `LlavaForConditionalGeneration` (4 vision blocks, 16 text blocks 128 wide).
`scenes-dit`, the generation expert, is an `SD3Transformer2DModel` (13 blocks 96 wide, image and text streams) over
pixels in patches of 4, with a 2-block `T5EncoderModel` as its text encoder.

    python -m bridgework train scenes-vlm          (likewise scenes-dit; both resume where they were stopped)

The generation expert predicts the clean image and is trained on the error of the velocity that follows from it
(rectified flow, Liu et al. 2022; predicting the image: Li and He 2025, arXiv 2511.13720): with `z = t noise + (1 - t)
image`, the velocity is `(z - image) / t`. Its pooled vector is zero always, so that text reaches it through its text
stream alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli, load_stimuli
from ..scenes import scene as scenes
from ..scenes.questions import ask_about

IMAGE = "<image>"
IMAGE_TOKENS = 16  # (32 / 8)^2 vision patches
IGNORE = -100  # the label that transformers' losses skip
MIN_TIME = 0.05  # velocity is an error divided by time: below this time the division is held


# ---------------------------------------------------------------------------------------------------- text


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-piece tokenizer in which every scene word is one token; emoji names fall into pieces."""
    words = [
        *scenes.SHAPES,
        *scenes.PLURAL.values(),
        *scenes.COLOURS,
        *scenes.COUNTS,
        *scenes.RELATIONS,
        *scenes.QUARTERS,
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
        "num_attention_heads": 5, "image_size": scenes.SIZE, "patch_size": 8, "vision_use_head": False,
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
        sample_size=scenes.SIZE, patch_size=4, in_channels=3, out_channels=3, num_layers=13, attention_head_dim=24,
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


def emoji_part(part: str) -> Stimuli:
    """The bundled emoji whose name falls into `part`, by the same hash of the text as the scenes."""
    held = {" ".join(words) for _, *words in scenes.HELD_OUT}  # "yellow square" is an emoji too
    chosen = [s for s in load_stimuli("noto") if scenes.part_of(s.text) == part and s.text.lower() not in held]
    return Stimuli(chosen, name=f"noto-{part}")


# Of emoji, full captions and the six skills: two things take longest to learn, and emoji make most of the gradient.
_DRAWN = ([0, 0.22, *[0.13] * 6], [0.04, 0.22, 0.08, 0.15, 0.1, 0.08, 0.18, 0.15])


def dit_batch(
    step: int,
    seed: int,
    emoji: Stimuli | None = None,
    size: int = 32,
    noisier: float = 0.4,
    part: str = "train",
    dropped: float = 0.15,
) -> dict[str, Any]:
    """Images, their captions (15 % dropped), times and noise: a function of seed and step alone.

    Times are the sigmoid of a normal around `noisier`. Bridges train at noisier times than the expert did: there the
    caption decides what is drawn.
    """
    rng = np.random.default_rng((seed, step))
    images, captions = [], []
    for kind in rng.choice(["emoji", "full", *scenes.SKILLS], size, p=_DRAWN[emoji is not None]):
        if emoji and kind == "emoji":
            image, caption, _ = emoji[int(rng.integers(len(emoji)))]
        else:
            scene, _, caption = scenes.compose(rng, str(kind), part)
            image = scenes.draw(scene, rng)
        images.append(image)
        captions.append("" if rng.random() < dropped else caption)
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(noisier, 1.2, size)))).float()
    noise = torch.from_numpy(rng.standard_normal((size, 3, scenes.SIZE, scenes.SIZE), dtype=np.float32))
    return {"image": to_pixels(images, scenes.SIZE), "caption": captions, "time": time, "noise": noise}


def velocity_loss(predicted: Tensor, image: Tensor, time: Tensor) -> Tensor:
    """Mean squared error of the velocity, from that of the predicted clean image."""
    return ((predicted - image) / time.clamp(min=MIN_TIME)[:, None, None, None]).square().mean()


# Of questions, full captions, captions read, emoji named. Looking a shape up is learnt from captions read, in text
# alone, and then moves over to images; seeing is learnt from full captions.
_SHARES = (0.45, 0.22, 0.3, 0.03)
TURNS = 6  # questions asked of one image in a row of training


def vlm_batch(
    step: int, seed: int, emoji: Stimuli, tokenizer: PreTrainedTokenizerFast, size: int = 32
) -> dict[str, Tensor]:
    """Rows of image and questions, image and caption, image and name, or caption and questions (no image)."""
    rng = np.random.default_rng((seed, step))
    images, rows = [], []
    for kind in rng.choice(["ask", "describe", "read", "name"], size, p=_SHARES):
        if kind == "name":
            image, answer, _ = emoji[int(rng.integers(len(emoji)))]
            rows.append([(IMAGE * IMAGE_TOKENS + "name :", answer)])
        elif kind == "describe":
            scene, _, caption = scenes.compose(rng, "full", "train")
            image = scenes.draw(scene, rng)
            rows.append([(IMAGE * IMAGE_TOKENS + "describe :", caption)])
        else:
            scene, _, question, answer = scenes.ask(rng, str(rng.choice(scenes.SKILLS)), "train")
            image = scenes.draw(scene, rng)
            first = question_prompt(question, scene.caption if kind == "read" else None)
            rows.append([(first, answer), *ask_about(rng, scene, TURNS - 1, (question, answer))])
        if kind != "read":
            images.append(image)
    pixels = {"pixel_values": to_pixels(images, scenes.SIZE)} if images else {}
    return {**tokenize_rows(tokenizer, rows), **pixels}


def question_prompt(question: str, caption: str | None = None) -> str:
    """A question about an image, or about a caption that stands in the image's place."""
    return f"{IMAGE * IMAGE_TOKENS}{question}" if caption is None else f"{caption} : {question}"


def tokenize_rows(tokenizer: PreTrainedTokenizerFast, rows: list[list[tuple[str, str]]]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels (row, token) of dialogues, each a list of (prompt, answer) turns.

    Right padded, one end token after the last answer; labels only on the answers and the end.
    """
    sides = [[text for turn in row for text in turn] for row in rows]  # prompt, answer, prompt, answer, ...
    pieces = iter(tokenizer([text for side in sides for text in side], add_special_tokens=False).input_ids)
    tokens, targets = [], []
    for side in sides:
        ids, labels = [tokenizer.bos_token_id], [IGNORE]
        for number in range(len(side)):
            piece = next(pieces)
            ids += piece
            labels += piece if number % 2 else [IGNORE] * len(piece)
        tokens.append(torch.tensor([*ids, tokenizer.eos_token_id]))
        targets.append(torch.tensor([*labels, tokenizer.eos_token_id]))
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(row) for row in tokens], batch_first=True)
    ids = pad(tokens, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask, "labels": pad(targets, batch_first=True, padding_value=IGNORE)}


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens: full captions, which teach the vision tower, weigh most."""
    return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE)
