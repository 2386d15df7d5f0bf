"""Build 41 tiny random-weight multimodal and diffusion models from configs: no weights, no hub, no torchvision.

`ZOO[name]` is (family, build), and `build()` returns a `Built`: `model(**inputs)` is one forward pass of two samples.
Every model was seen to build, run, repeat bit for bit and backpropagate on transformers 5.23, diffusers 0.42 and torch
2.13.
"""

from .tiny_built import Built, Table
from .tiny_diffusers import DIFFUSERS
from .tiny_transformers import TRANSFORMERS

__all__ = ["ZOO", "Built"]

ZOO: Table = TRANSFORMERS | DIFFUSERS
