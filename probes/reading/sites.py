"""Name the sites of a model besides its blocks: attention, MLP, the state between them, connector and final norm."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from ..hooks.capturing import EMBEDDINGS

# Paths inside a block, the first that is there counts. Where a module adds the residual itself, its last layer stands.
ATTENTION = (
    "layer.0.SelfAttention", "attention.output.dense", "self_attention.dense", "self_attn", "attn", "attention",
    "self_attention", "attn1", "linear_attn",
)  # fmt: skip
MLP = (
    "layer.2.DenseReluDense", "layer.1.DenseReluDense", "mlp.dense_4h_to_h", "mlp", "ffn", "feed_forward", "ff",
    "block_sparse_moe", "moe", "fc2", "output.dense",
)  # fmt: skip
# The parts whose presence tells that the state between attention and MLP is what the last of them is given.
MIDDLES = (
    ("input_layernorm", "pre_feedforward_layernorm"), ("input_layernorm", "post_attention_layernorm"),
    ("layer_norm1", "layer_norm2"), ("ln_1", "ln_2"), ("layernorm_before", "layernorm_after"),
    ("attention_norm", "ffn_norm"), ("operator_norm", "ffn_norm"), ("norm1", "norm2"),
    ("post_feedforward_layernorm", "mlp"),
)  # fmt: skip
CONNECTOR = re.compile(r"(^|\.)(multi_modal_projector|mm_projector|\w*connector|\w*merger|\w*aligner|\w*projector|"
                       r"language_projection|embed_vision|perceiver\w*|vision_projection)$")  # fmt: skip
FINAL_NORM = re.compile(
    r"^(norm|final_?layer_?norm|final_norm|ln_f|norm_f|layer_?norm|post_layernorm|norm_out|out_norm)$"
)
WORDS = {"attention": 0.25, "middle": 0.5, "mlp": 0.75}


class Site(NamedTuple):
    """A place in a model that is read.

    Attributes
    ----------
    path : str
        The path of the module whose output is read, "embeddings", or `path:input` for what enters the module.
    depth : float
        The relative depth: attention, state between and MLP of block i of L stand at (i + 1/4) / L, (i + 1/2) / L and
        (i + 3/4) / L, other modules inside the block at (i + 1/2) / L.
    modality : str or None
        The only modality that has the site.
    """

    path: str
    depth: float
    modality: str | None = None


def find_site(model: nn.Module, blocks: Sequence[str], name: str) -> Site:
    """Find a site by its name.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    blocks : sequence of str
        The paths of its blocks, in depth order.
    name : str
        "7.attention", "7.mlp" (the module's own output, before gates, scales and norms behind it), "7.middle" (the
        state between attention and MLP), "connector" (what enters the language model as image tokens), "final_norm"
        (the norm behind the last block), or the path of any module, with ":input" behind it for what enters it.

    Returns
    -------
    Site
        The place.

    Raises
    ------
    ValueError
        The model has no such site. The message lists what it has.
    """
    count = len(blocks)
    number, _, word = name.partition(".")
    if number.isdigit() and int(number) < count and word in WORDS:
        path = _part(model.get_submodule(blocks[int(number)]), word)
        if path is None:
            raise ValueError(
                f"block {blocks[int(number)]!r} has no {word} that is known by its name: it has the parts "
                f"{', '.join(_parts(model, blocks[int(number)]))}, which can be named by their paths"
            )
        return Site(f"{blocks[int(number)]}.{path}", (int(number) + WORDS[word]) / count)
    if name == "connector":
        if not any(CONNECTOR.search(path) for path, _ in model.named_modules()):
            raise ValueError(f"{type(model).__name__} has no connector between an image encoder and a language model")
        return Site(EMBEDDINGS, 0.0, "image")
    if name == "final_norm":
        path = _final_norm(model, blocks[-1])
        if path is None:
            raise ValueError(
                f"{type(model).__name__} has no norm behind {blocks[-1]!r}: its last block's output is its last"
            )
        return Site(path, 1.0)
    modules = dict(model.named_modules())
    path = name.removesuffix(":input")
    if path not in modules or not path:
        raise ValueError(
            f"expected embeddings, 0 to {count - 1}, their paths, {blocks[0]} to {blocks[-1]}, "
            f"0.attention, 0.middle, 0.mlp, connector, final_norm or the path of another module"
        )
    inside = [place for place, block in enumerate(blocks) if path == block or path.startswith(f"{block}.")]
    if inside:
        return Site(name, (inside[0] + 0.5 * (path != blocks[inside[0]])) / count)
    order = list(modules)
    return Site(name, float(order.index(path) > order.index(blocks[0])))


def _part(block: nn.Module, word: str) -> str | None:
    """Return the path of a site inside a block, or None."""
    parts = {path: module for path, module in block.named_modules() if path}
    if word != "middle":
        known = [path for path in (ATTENTION if word == "attention" else MLP) if path in parts]
        return next((path for path in known if not _adds_residual(parts[path])), None)
    parallel = getattr(block, "use_parallel_residual", False) or getattr(block, "parallel_attn", False)
    if parallel or "attn2" in parts or any("context" in path for path in parts):
        return None  # attention and MLP read the same state, or several states lie between
    if "layer.0.SelfAttention" in parts:
        return "layer.0" if "layer.2" not in parts else None
    if "attention.output.dense" in parts and "layernorm_before" not in parts:
        return "attention"  # post-norm: BERT and its kin
    if {"self_attn_layer_norm", "final_layer_norm"} <= parts.keys() and hasattr(block, "do_layer_norm_before"):  # OPT
        return "final_layer_norm:input" if block.do_layer_norm_before else "self_attn_layer_norm"
    for first, last in MIDDLES:
        if first in parts and last in parts:
            return f"{last}:input"
    return None


def _adds_residual(module: nn.Module) -> bool:
    return "residual" in inspect.signature(module.forward).parameters


def _parts(model: nn.Module, block: str) -> Iterator[str]:
    for name, _ in model.get_submodule(block).named_children():
        yield f"{block}.{name}"


def _final_norm(model: nn.Module, block: str) -> str | None:
    """Return the path of the norm that stands beside the stack, or beside the module that holds it."""
    holder = block
    while holder:
        holder = holder.rpartition(".")[0]
        found = [
            f"{holder}.{name}" if holder else name
            for name, module in model.get_submodule(holder).named_children()
            if FINAL_NORM.search(name) and "Norm" in type(module).__name__
        ]
        if found:
            return found[-1]
    return None
