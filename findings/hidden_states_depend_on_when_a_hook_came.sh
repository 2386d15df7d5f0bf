#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU), a Llama with random weights.
#
# One would guess: `output_hidden_states=True` returns what each block hands to the next, so a forward hook that steers a
# block shows in `hidden_states`, whenever it was registered.
#
# What happens: the library collects hidden states by forward hooks of its own. It registers them when hidden states are
# first asked for, and leaves them on the blocks. Hooks run in the order in which they were registered. A user's hook that
# came before the first such call shows in `hidden_states`. The same hook, registered after that call, steers the next
# block and the logits, but `hidden_states` shows the block as if there were no hook.
#
# Seen (largest difference between hidden_states[2] and what block 2 was given; the hook adds 1 to block 1):
#   hook registered before the first call: 0.0
#   hook registered after the first call:  1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaModel

config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
ids = torch.arange(5)[None]


def steer(module, args, output):
    """Add 1 to what a block returns."""
    return output + 1 if isinstance(output, torch.Tensor) else (output[0] + 1, *output[1:])


@torch.no_grad()
def difference(asked_before):
    """How far hidden_states[2] is from what block 2 was given."""
    torch.manual_seed(0)
    model, given = LlamaModel(config).eval(), []
    if asked_before:
        model(ids, output_hidden_states=True)
    model.layers[1].register_forward_hook(steer)
    model.layers[2].register_forward_pre_hook(
        lambda module, args, kwargs: given.append((args[0] if args else kwargs["hidden_states"]).clone()),
        with_kwargs=True,
    )
    states = model(ids, output_hidden_states=True).hidden_states
    return float((states[2] - given[0]).abs().max())


early, late = difference(asked_before=False), difference(asked_before=True)
print(f"hook registered before the first call: {early:.1f}\nhook registered after the first call:  {late:.1f}")
if not (early < 1e-5 and abs(late - 1) < 1e-5):
    sys.exit("hidden_states no longer depend on when a hook was registered")
PYTHON
