#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU): Gemma 3n's text model and DeepSeek-V4, tiny, with random weights.
#
# One would guess: `output_hidden_states=True` returns states (batch, token, dim), one more than there are layers, so that
# `states.mean(1)` is the mean over the tokens of each text.
#
# What happens: both pass four states of each token from layer to layer. Gemma 3n returns (4, batch, token, dim) at every
# depth, so that `mean(1)` averages over the texts of the batch: a text's features depend on its neighbours. DeepSeek-V4
# returns (batch, token, 4, dim), but for the last, which is (batch, token, dim). Neither raises an error.
#
# Seen (two texts of five tokens, then the first beside another second one): shapes, and the largest change of
# `states[2].mean(1)[0]` over its largest value.
#   Gemma 3n      (4, 2, 5, 32) (4, 2, 5, 32) (4, 2, 5, 32) (4, 2, 5, 32)   1.20
#   DeepSeek-V4   (2, 5, 4, 32) (2, 5, 4, 32) (2, 5, 4, 32) (2, 5, 32)       .00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import DeepseekV4Config, DeepseekV4Model, Gemma3nTextConfig, Gemma3nTextModel

torch.manual_seed(0)
common = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, sliding_window=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
gemma = Gemma3nTextModel(Gemma3nTextConfig(**common, vocab_size_per_layer_input=64, hidden_size_per_layer_input=8,
    layer_types=["full_attention"] * 3, num_kv_shared_layers=0, laurel_rank=4, altup_num_inputs=4,
    activation_sparsity_pattern=[0.0] * 3)).eval()
deepseek = DeepseekV4Model(DeepseekV4Config(**common, moe_intermediate_size=16, q_lora_rank=16, o_lora_rank=16, o_groups=1,
    n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, qk_rope_head_dim=8, hc_mult=4, index_n_heads=2,
    index_head_dim=16, index_topk=8, max_position_embeddings=64)).eval()
text = [5, 6, 7, 8, 9]
found = {}
for name, model in {"Gemma 3n": gemma, "DeepSeek-V4": deepseek}.items():
    with torch.no_grad():
        one, other = (model(input_ids=torch.tensor([text, beside]), output_hidden_states=True).hidden_states
            for beside in ([9, 8, 7, 6, 5], [20, 30, 40, 50, 60]))
    first, second = one[2].mean(1)[0], other[2].mean(1)[0]
    change = float((first - second).abs().max() / first.abs().max())
    found[name] = [tuple(state.shape) for state in one], change > 1e-3
    print(f"{name:12}", *found[name][0], f"{change:.4f}")
expected = {
    "Gemma 3n": ([(4, 2, 5, 32)] * 4, True),
    "DeepSeek-V4": ([(2, 5, 4, 32)] * 3 + [(2, 5, 32)], False),
}
if found != expected:
    sys.exit("the hidden states have other shapes now, or the mean over axis 1 means something else")
PYTHON
