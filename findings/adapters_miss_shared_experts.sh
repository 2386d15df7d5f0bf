#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU).
#
# One would guess: LoraConfig(target_modules=[...]) with the names of all linear layers puts an adapter on all of them.
#
# What happens: of a mixture of experts that transformers 5 holds in fused tensors, peft translates the names of the
# target modules, for gate_proj, up_proj and down_proj once were the experts'. The layers that still bear these names,
# the shared experts and the dense first blocks, then have no adapter, and no message says how many were left out.
#
# Seen: 20 of 32 linear layers have an adapter; none has mlp.gate_proj, up_proj, down_proj of block 0, nor the shared
# experts' of blocks 1 to 3.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2 accelerate
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "moe_intermediate_size": 8}
heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
ranks = {"q_lora_rank": 8, "kv_lora_rank": 8}
experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
model = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes, **heads, **ranks, **experts))
linear = [n for n, m in model.model.layers.named_modules(prefix="model.layers") if isinstance(m, nn.Linear)]
names = sorted({name.rpartition(".")[2] for name in linear})
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=names), model)
left = [name for name in linear if not isinstance(model.get_submodule(name), BaseTunerLayer)]
print(f"asked for {names}")
print(f"{len(linear) - len(left)} of {len(linear)} have an adapter; none has: {left}")
sys.exit(0 if left else "changed: every layer that is named has an adapter")
PYTHON
