"""Define what a tiny model consists of, and the sizes that all of them have."""
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
    """Hold a tiny model.

    Attributes
    ----------
    model : nn.Module
        The model.
    inputs : dict
        The arguments of one forward pass of two samples.
    vision : callable, optional
        Returns the vision tower's hidden states natively, where there is such a call.
    """

    model: nn.Module
    inputs: dict[str, Any]
    vision: Callable[[], Any] | None = None


Table = dict[str, tuple[str, Callable[[], Built]]]  # name -> family, builder


def into(table: Table):
    """Return a decorator `zoo(name, family)` that puts a builder into the table."""

    def zoo(name: str, family: str):
        def enter(build: Callable[[], Built]) -> Callable[[], Built]:
            table[name] = (family, build)
            return build

        return enter

    return zoo


def pix(b=B, s=32):
    """Draw pixels (b, 3, s, s)."""
    return torch.randn(b, 3, s, s)
