"""Settle how the claims of the papers are tested: models, seeds, training, and what is chosen beforehand.

protocol.md says why. A change of anything here is another study: each run keeps a hash of what it depends on, and runs
of two hashes are never mixed.
"""

from __future__ import annotations

PROTOCOL = 1
SEEDS = (0, 1, 2, 3, 4)
SWEEP_SEEDS = (0, 1, 2)  # of sweeps
TUNING_SEED = 100  # no other run has it
BATCH = 16

# Two towers
PAIRS = ("scenes-reader x scenes-dit", "smollm2-135m x scenes-dit")
LAYOUTS = ("dense", "H", "double fusion", "last", "soft")
PARAMETERS = 300_000  # of the bridges of every layout, at most
TOWER_STEPS = 250
TOWER_RATES = (3e-3, 1e-2, 3e-2)
TUNING_STEPS = 100
TIME_SHIFT = 2.0  # as in the study of worth: noisier than elsewhere, where the caption decides most
TIME_SHIFTS = (1, 2, 4)  # LightFusion's
SEMANTIC_TOKENS = 16  # HBridge's

# One trunk
READER = "scenes-reader"  # whose blocks the trunk starts from
DEPTH = 12
START_STEPS = 300  # of the common trunk: it still learns when layouts part
BASE_STEPS, BASE_RATE = 1500, 2e-3  # of the trunk whose curves are measured
TRUNK_STEPS = 100
TRUNK_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
QUESTIONS = 8  # dialogues of a batch, beside 16 images
FORK, ENDS = 6, (4, 2)  # as published, scaled to this depth
FIRST_ENDS, LAST_ENDS = (1, 2, 4, 8), (1, 2, 4)  # one end is varied, the other is the published one
TASK_STEPS, TASK_RATE = 200, 5e-4  # of the trunk of `BASE_STEPS` that is trained further on one task
ASKED = 100  # questions of every skill
