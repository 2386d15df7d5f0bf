"""Every public name and command says in one sentence what is wrong with what it is given.

The rows stand in the other modules of this folder, each a list `ROWS`. A new row, or a new module of rows, needs
nothing else. `good_inputs.py` holds what rows take beside the one thing that is wrong.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

from bridgework.tests.bad_inputs.frame import KINDS, faults_of_form, foreign, raised_by, shown_frames

HERE = Path(__file__).parent
MODULES = sorted(file.stem for file in HERE.glob("[!_]*.py") if not file.stem.startswith(("test_", "frame", "good_")))
ROWS = [row for module in MODULES for row in importlib.import_module(f"bridgework.tests.bad_inputs.{module}").ROWS]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.name}: {row.case}" for row in ROWS])
@pytest.mark.filterwarnings("ignore")
def test_it_is_said_in_one_sentence(row, tmp_path, capsys):
    error = raised_by(row, tmp_path)
    if callable(row.call):
        assert type(error) is row.error, repr(error)
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        assert not foreign(error), repr(error)
        # One frame of the package is shown, that of the public call, or those of a constructor and its check.
        frames = [frame for frame in shown_frames(error) if not frame.endswith((".__init__", ".__post_init__"))]
        assert len(frames) <= 1, frames
    else:
        assert isinstance(error, SystemExit), repr(error)
        said = error.code if isinstance(error.code, str) else capsys.readouterr().err.strip().splitlines()[-1]
        assert re.match(r"bridgework[ \w-]*: ", said), said
        text = re.sub(r"^bridgework[ \w-]*: (error: )?", "", said)
    missing = [words for words in row.says if words not in text]
    assert not missing, f"{missing} are not in: {text}"
    assert not faults_of_form(text), f"{faults_of_form(text)}: {text}"


def test_rows_are_of_known_kinds_and_differ():
    assert not {row.kind for row in ROWS} - set(KINDS)
    assert not [row for row, count in Counter((row.name, row.case) for row in ROWS).items() if count > 1]
