"""Bad inputs of similarities, maps and their nulls."""

from __future__ import annotations

import numpy as np

from bridgework import probes
from bridgework.tests.bad_inputs.frame import BadInput
from bridgework.tests.bad_inputs.good_inputs import array

ROWS = [
    BadInput(
        "similarity",
        "a row of NaN",
        lambda: probes.similarity(np.full((24, 5), np.nan), array()),
        ["x", "NaN", "sample 0"],
        "finite",
    ),
    BadInput(
        "bridgework align",
        "a k that is a word",
        ["align", "{here}", "--k", "ten"],
        ["--k", "ten"],
        "type",
    ),
    BadInput(
        "bridgework align",
        "a store that is not there",
        ["align", "{here}/missing"],
        ["missing", "no features in", "extract them first"],
        "missing",
    ),
]
