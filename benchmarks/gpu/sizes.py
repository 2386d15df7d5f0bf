"""Hold the sizes of the benchmark: those for a card, and tiny ones that run the same code on any CPU in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Hold the sizes of all parts.

    Attributes
    ----------
    matrix : int
        Rows of the square matrices whose product gives the rate of the card.
    matrix_seconds : float
        How long each of these products is repeated.
    layers, samples, dims : int
        Size of either side of a map.
    memory : float
        Bytes that a map may take beside its features.
    rounds : int
        How often everything that is timed takes its turn; the best time counts.
    map_rounds : int
        The same of the large map and its floor.
    compared, compared_samples : int
        Layers of either side that the CPU scores as well, and their samples for metrics other than cka.
    text, vision, denoiser, generator : mapping
        Keywords of `Qwen3Config`, `Dinov2Config`, `SanaTransformer2DModel` and `SD3Transformer2DModel`.
    reader_vision, reader_text : mapping
        What differs from scenes-vlm in a larger reader's `SiglipVisionConfig` and `LlamaConfig`.
    texts, joined, batch : int
        Texts that are read, captions that make one text, and texts in a batch.
    pictures, noisy_pictures, picture_batch : int
        Pictures that are seen, those of them that are denoised, and pictures in a batch.
    fused_batch, draw_batch, read_batch : int
        Pictures in a step of a fused model and of a generator, rows in a step of a reader.
    workers : int
        Processes that draw the batches of training; 0 for none.
    train_seconds : float
        How long generator and reader train together, if so much time is left.
    """

    matrix: int
    matrix_seconds: float
    layers: int
    samples: int
    dims: int
    memory: float
    rounds: int
    map_rounds: int
    compared: int
    compared_samples: int
    text: Config
    vision: Config
    denoiser: Config
    generator: Config
    reader_vision: Config
    reader_text: Config
    texts: int
    joined: int
    batch: int
    pictures: int
    noisy_pictures: int
    picture_batch: int
    fused_batch: int
    draw_batch: int
    read_batch: int
    workers: int
    train_seconds: float


class Setting(NamedTuple):
    """Hold what a part is given.

    Attributes
    ----------
    sizes : Sizes
        How large everything is.
    device : str
        "cuda" or "cpu".
    seconds : float
        How long the part may take.
    """

    sizes: Sizes
    device: str
    seconds: float


CARD = Sizes(
    matrix=8192,
    matrix_seconds=1.5,
    layers=48,
    samples=16_384,
    dims=4_096,
    memory=3e10,
    rounds=3,
    map_rounds=2,
    compared=2,
    compared_samples=2_048,
    # Qwen3-1.7B as published
    text={
        "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    },
    # DINOv2-L as published, for pictures of 224 pixels
    vision={
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
    },
    # SANA-1.6B as published: the defaults of its class
    denoiser={"sample_size": 32},
    generator={
        "num_layers": 24, "num_attention_heads": 16, "attention_head_dim": 64, "caption_projection_dim": 1024,
        "patch_size": 2, "pos_embed_max_size": 16,
    },
    reader_vision={
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    },
    reader_text={
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 64,
    },
    texts=2_048,
    joined=12,
    batch=64,
    pictures=512,
    noisy_pictures=128,
    picture_batch=64,
    fused_batch=32,
    draw_batch=128,
    read_batch=256,
    workers=6,
    train_seconds=180.0,
)  # fmt: skip

TINY = Sizes(
    matrix=64,
    matrix_seconds=0.01,
    layers=3,
    samples=48,
    dims=16,
    memory=1e8,
    rounds=1,
    map_rounds=1,
    compared=2,
    compared_samples=32,
    text={
        "vocab_size": 2000, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
    },
    vision={"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
    denoiser={
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
        "caption_channels": 16, "sample_size": 8,
    },
    generator={
        "num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 16, "caption_projection_dim": 32,
        "patch_size": 8,
    },
    reader_vision={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    reader_text={
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 16,
    },
    texts=6,
    joined=1,
    batch=4,
    pictures=4,
    noisy_pictures=4,
    picture_batch=2,
    fused_batch=4,
    draw_batch=4,
    read_batch=4,
    workers=0,
    train_seconds=2.0,
)  # fmt: skip

SIZES = {"card": CARD, "tiny": TINY}

# The parts in their order, each with its share of the time. What a part leaves goes to those behind it, and the last
# one, training, has all that is left.
SHARES = {"maps": 100, "extraction": 50, "memory": 35, "any_model": 40, "sharding": 45, "training": 190}
