#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU). Tiny random models.
#
# One would guess: `output_hidden_states=True` gives the embeddings first and then one state for each block, in every
# language model, so that hidden_states[i + 1] is what block i returns.
#
# What happens: that holds for Llama up to its last block, whose own output is not there: the last state is behind the
# final norm. Mamba leaves the embeddings out: hidden_states[i] is what block i returns, and with the state behind the
# final norm there are as many states as in a Llama of the same depth, so no count shows the difference.
#
# Seen (what each of the four hidden states of three blocks is):
#   Llama  embeddings, block 0, block 1, final norm
#   Mamba  block 0, block 1, block 2, final norm
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaModel, MambaConfig, MambaModel

torch.manual_seed(0)
size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3}
models = {
    "Llama": (LlamaModel(LlamaConfig(**size, intermediate_size=24, num_attention_heads=2)), "embed_tokens", "norm"),
    "Mamba": (MambaModel(MambaConfig(**size)), "embeddings", "norm_f"),
}


@torch.no_grad()
def names(model, embedding, norm):
    """What each hidden state is, by its values."""
    own, handles = {}, []
    parts = {"embeddings": model.get_submodule(embedding), "final norm": model.get_submodule(norm)}
    parts |= {f"block {number}": block for number, block in enumerate(model.layers)}
    for name, module in parts.items():
        def read(module, args, output, name=name):
            own[name] = output if isinstance(output, torch.Tensor) else output[0]

        handles.append(module.register_forward_hook(read))
    states = model.eval()(torch.tensor([[5, 6, 7, 8]]), output_hidden_states=True).hidden_states
    return [next((name for name, value in own.items() if torch.equal(value, state)), "?") for state in states]


found = {name: names(*parts) for name, parts in models.items()}
for name, states in found.items():
    print(f"{name}  {', '.join(states)}")
if found["Llama"] != ["embeddings", "block 0", "block 1", "final norm"]:
    sys.exit("changed: Llama's hidden states are others")
if found["Mamba"] != ["block 0", "block 1", "block 2", "final norm"]:
    sys.exit("changed: Mamba's hidden states are others")
print("as described")
PYTHON
