#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU).
#
# One would guess: torch's checkpoint_wrapper around the layers of a language model changes memory and time, and no
# gradient. That the layers also fill a cache of keys and values matters for generation alone.
#
# What happens: a model fills its cache in training too, unless use_cache=False. Reentrant checkpointing computes a
# layer again, and the cache already holds the layer's keys and values of the first time, without gradients. The layer
# attends to these as well. The maps of keys and values get a gradient of zero, and most others a wrong one. Nothing
# warns: transformers switches the cache off for its own checkpointing alone.
#
# Seen:
#   by default       wrong 13 of 21; zero: k_proj and v_proj of both layers
#   use_cache=False  wrong 0 of 21; zero: []
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ids = torch.arange(1, 9).repeat(2, 1)


def gradients(wrapped, cached):
    """The gradients by name, of the loss of one batch."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).train()
    if wrapped:
        layers = model.model.layers
        for number, layer in enumerate(layers):
            layers[number] = checkpoint_wrapper(layer, checkpoint_impl=CheckpointImpl.REENTRANT)
    model(ids, labels=ids, **({} if cached else {"use_cache": False})).loss.backward()
    return {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in model.named_parameters()}


plain = gradients(False, True)
wrong = {}
for cached in (True, False):
    found = gradients(True, cached)
    wrong[cached] = [n for n, g in plain.items() if found[n] is None or not torch.allclose(found[n], g, atol=1e-6)]
    zero = [n for n in wrong[cached] if found[n] is None or not found[n].any()]
    print(f"{'by default' if cached else 'use_cache=False':16} wrong {len(wrong[cached])} of {len(plain)}; zero: {zero}")
if wrong[False] or not wrong[True]:
    sys.exit("changed: the cache of keys makes no difference to the gradients, or another thing does")
if not {f"model.layers.0.self_attn.{name}.weight" for name in ("k_proj", "v_proj")} <= set(wrong[True]):
    sys.exit("changed: the keys' and values' maps have their gradients")
print("as described")
PYTHON
