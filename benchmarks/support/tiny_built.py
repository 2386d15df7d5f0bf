"""What a tiny model is, and the sizes that all of them have."""
# ruff: noqa: E741

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

H, I, L, NH, NKV, V = 32, 64, 4, 4, 2, 256  # hidden, mlp, text layers, heads, kv heads, vocab
VL = 3  # vision layers (!= L so stacks cannot be confused)
IMG = 200  # image placeholder token id everywhere
B = 2


@dataclass
class Built:
    """A model, the inputs of one forward pass, and where there is one the call that exposes its vision states."""

    model: nn.Module
    inputs: dict[str, Any]
    vision: Callable[[], Any] | None = None  # call that should natively expose vision hidden states


Table = dict[str, tuple[str, Callable[[], Built]]]  # name -> family, builder


def into(table: Table):
    """A decorator `zoo(name, family)` that puts a builder into the table."""

    def zoo(name: str, family: str):
        def enter(build: Callable[[], Built]) -> Callable[[], Built]:
            table[name] = (family, build)
            return build

        return enter

    return zoo


def pix(b=B, s=32):
    return torch.randn(b, 3, s, s)
