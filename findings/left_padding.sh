#!/bin/bash
# Left padding by an attention mask alone, in transformers 5.23.0 with torch 2.13.0 (Python 3.11).
#
# One would guess that an attention mask says where a text begins, so that a text padded on the left has the states that it
# has alone. In many families it has not: GPT-2, GPT-Neo, GPT-BigCode, GPT-1, BioGPT, XGLM, CTRL, BERT, DistilBERT, ELECTRA
# and CLIP's text tower count positions from the first column, whatever the mask says, and RWKV and xLSTM read the padding
# into their state. `position_ids` made from the mask mend all but the recurrent two. OPT counts from the mask, BLOOM and
# Llama know distances alone, and Mamba is given zeros for padding: they are right. RoBERTa is right too, because it counts
# from the ids that are no padding, and there the same `position_ids` make it wrong: its positions begin behind the padding
# id. Nothing warns.
#
# Seen (largest difference over the largest value of the text alone):
#
#   family        mask alone   with position_ids from the mask
#   gpt2             1.3e+00   3.3e-07
#   gpt_neo          1.2e+00   3.9e-07
#   gpt_bigcode      9.8e-01   4.2e-07
#   openai-gpt       9.2e-01   3.9e-07
#   biogpt           2.3e-01   1.9e-07
#   xglm             5.6e-01   2.7e-07
#   ctrl             6.2e-01   3.2e-07
#   bert             8.3e-01   2.7e-07
#   distilbert       1.2e+00   4.3e-07
#   electra          7.2e-01   3.4e-07
#   clip_text_model  8.8e-01   2.7e-07
#   rwkv             9.3e-01   takes none
#   xlstm            1.1e+00   takes none
#   opt              3.8e-07   3.8e-07
#   llama            7.4e-07   7.4e-07
#   bloom            3.0e-07   takes none
#   mamba            3.0e-07   takes none
#   roberta          2.6e-07   8.4e-01
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.23.0
cat > "$folder/check.py" <<'PYTHON'
import inspect

import torch
from transformers import AutoConfig, AutoModel, logging

logging.set_verbosity_error()
IDS = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LONG = {"max_position_embeddings": 64}
FAMILIES = {  # settings, whether a mask alone shifts its states, whether position_ids do
    "gpt2": (GPT, True, False),
    "gpt_neo": ({"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], **LONG}, True, False),
    "gpt_bigcode": (GPT, True, False),
    "openai-gpt": (GPT, True, False),
    "biogpt": (BERT | LONG, True, False),
    "xglm": ({"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, **LONG}, True, False),
    "ctrl": (GPT | {"dff": 48}, True, False),
    "bert": (BERT | LONG, True, False),
    "distilbert": ({"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, **LONG}, True, False),
    "electra": (BERT | LONG | {"embedding_size": 32}, True, False),
    "clip_text_model": (BERT, True, False),
    "rwkv": ({"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}, True, None),
    "xlstm": ({"hidden_size": 64, "num_blocks": 2, "num_heads": 4, "qk_dim_factor": 1.0, "v_dim_factor": 1.0}, True, None),
    "opt": ({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32}, False, False),
    "llama": (BERT, False, False),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, False, None),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, False, None),
    "roberta": (BERT | LONG, False, True),
}
words = torch.tensor([[5, 6, 7, 8]])
padded = torch.tensor([[0, 0, 0, 5, 6, 7, 8]])
mask = (padded != 0).long()
positions = (mask.cumsum(1) - 1).clamp(min=0)
changed = []
for family, (settings, by_mask, by_positions) in FAMILIES.items():
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **IDS, **settings)).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)

    def off(**inputs):
        with torch.no_grad():
            alone = model(input_ids=words).last_hidden_state[0]
            states = model(input_ids=padded, attention_mask=mask, **inputs).last_hidden_state[0, 3:]
        return float((states - alone).abs().max() / alone.abs().max())

    takes = "position_ids" in inspect.signature(model.forward).parameters
    alone, given = off(), off(position_ids=positions) if takes else None
    print(f"{family:16s} {alone:.1e}   {'takes none' if given is None else f'{given:.1e}'}")
    if (alone > 1e-3) != by_mask or (None if given is None else given > 1e-3) != by_positions:
        changed.append(family)
if changed:
    raise SystemExit(f"the behaviour has changed for {', '.join(changed)}")
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
