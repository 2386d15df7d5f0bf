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
extract scenes-vlm noto out --batch-size 0
extract scenes-vlm noto out --timesteps 2
extract scenes-vlm noto out --timesteps nan
extract scenes-vlm noto out --pooling grid:0
extract scenes-vlm noto out --task dance
extract scenes-vlm noto out --precision int8
extract scenes-vlm noto out --dtype int8
extract scenes-vlm noto out --generate 0
extract scenes-vlm noto out --calls none
extract scenes-vlm noto out --calls 0
extract scenes-vlm noto out --captions last
extract scenes-vlm noto out --part dev
extract scenes-vlm noto out --limit 0
extract scenes-vlm noto out --expert-dtype fp8
extract scenes-vlm noto plan.json
choose missing missing plan.json
choose missing missing plan.json --k -1
choose missing missing plan.json --rule erly
choose missing missing plan.json --metric knn --rule alignment
choose missing missing plan.json --bridges 0
choose missing missing plan.json --draws 3 --rule alignment
choose missing missing plan.json --timesteps 2
choose missing missing plan.json --seed -1
choose missing missing plan.json --matching optimal
report scenes-vlm scenes-dit noto out --k 0
report scenes-vlm scenes-dit noto out --metric knn
report scenes-vlm scenes-dit noto out --timesteps 2
report scenes-vlm scenes-dit noto out --batch-size 0
report scenes-vlm scenes-dit noto out --venue cvrp
report scenes-vlm scenes-dit noto out --columns 3
report scenes-vlm scenes-dit noto out --draws 1
report scenes-vlm scenes-dit noto out --limit -1
report scenes-vlm scenes-dit noto plan.json
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
estimate scenes-vlm scenes-dit --utilisation 2
evaluate scenes-vlm --seed -1
align missing
align missing --k -1
align missing --metric knn
align missing --block 0
align missing --tolerance 2
align missing --timesteps 0
map missing missing out
map missing missing out --k -1
map missing missing out --metric knn
map missing missing out --timesteps 0.5 2
check scenes-dit --timesteps 2
check scenes-vml
check scenes-dit nothing
figure map missing missing --out map.pdf
figure plan missing.json --out plan.pdf
figure map missing missing --k 0
figure map missing missing --venue cvrp
figure map missing missing --columns 3
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
