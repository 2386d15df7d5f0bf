"""41 tiny random-weight multimodal and diffusion models, built from configs alone: no weights, no hub, no torchvision.

`ZOO[name] = (family, build)`; `build()` returns `Built(model, inputs, vision)`: `model(**inputs)` is one forward pass
of two samples, `vision()` the call that exposes the vision tower's hidden states natively, where there is one. Every
model was seen to build, run, repeat bit for bit and backpropagate on transformers 5.23, diffusers 0.42, torch 2.13.

Source: the project's shared `tiny_zoo.py`.
"""

from .tiny_built import Built, Table
from .tiny_diffusers import DIFFUSERS
from .tiny_transformers import TRANSFORMERS

__all__ = ["ZOO", "Built"]

ZOO: Table = TRANSFORMERS | DIFFUSERS
