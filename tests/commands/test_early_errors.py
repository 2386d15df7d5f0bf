"""Errors that can be known without a model come before torch and transformers are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

LINES = """
extract scenes-vml noto out
extract runs/model noto out
extract scenes-vlm ./missing out --limit 3
extract scenes-vlm scenes-dev out
choose missing missing plan.json
report scenes-vlm ./missing noto out
report scenes-vlm scenes-dit nothing out
train scense run
train missing.json run
train plan.json run
train recipe.yaml run
train scenes run --steps 0
train scenes run --learning-rate 0
train scenes run --average 2
train scenes run --layout h
train scenes run --data ./missing
train scenes run --generation runs/model
train scenes-vlm run --steps 0
train scenes-vlm run --seed 3
evaluate scenes-vml
evaluate runs/model
evaluate scenes-vlm --part dev
evaluate scenes-vlm --each 0
evaluate scenes-dit --distance dino-s
estimate qwen-vl scenes-dit
estimate scenes-vlm ./missing
estimate scenes-vlm scenes-dit --batch 0
estimate scenes-vlm scenes-dit --layout h
estimate scenes-vlm scenes-dit --layout missing.json
estimate scenes-vlm scenes-dit --gpu H200
align missing
map missing missing out
check scenes-vml
check scenes-dit nothing
figure map missing missing --out map.pdf
figure plan missing.json --out plan.pdf
figure curve a b c --out curve.pdf
fetch models
"""
RUN = """
import json, sys
from bridgework.__main__ import main

HEAVY = {"torch", "transformers", "diffusers", "pandas", "scipy"}
for line in sys.stdin.read().split("\\n"):
    try:
        main(line.split())
        said = "nothing"
    except SystemExit as error:
        said = str(error)
    print(json.dumps([line, said, sorted(HEAVY & sys.modules.keys())]))
"""


def test_no_library_is_imported_for_an_error_that_needs_none(tmp_path):
    (tmp_path / "plan.json").write_text('{"pairs": [[0, 0]], "gated": "false"}')
    (tmp_path / "recipe.yaml").write_text("layout: H\nrnak: 3\n")
    command = [sys.executable, "-c", RUN]
    lines = LINES.strip()
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert len(rows) == len(lines.splitlines()), done.stderr
    for line, said, imported in rows:
        assert said.startswith("bridgework: ") or said == "2", (line, said)
        assert not imported, (line, imported)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "recipe.yaml"]
