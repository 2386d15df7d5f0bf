"""A check's error is shown up to the public call; other errors are shown whole, and no error is changed."""

from __future__ import annotations

import subprocess
import sys
import traceback

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from bridgework import tracebacks
from bridgework.probes import BridgePlan, similarity
from bridgework.probes.similarity import scoring
from bridgework.tracebacks import up_to_public_call

CALL = """
import numpy as np
from bridgework.probes import similarity
similarity(np.ones((5, 2)), np.ones((6, 2)))
"""
SAYS = "ValueError: "


def error_of(call) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def functions(error: Exception) -> list[str]:
    """The functions whose frames are shown, behind this file's own."""
    shown = traceback.extract_tb(up_to_public_call(error, error.__traceback__))
    return [each.name for each in shown if each.filename != __file__]


def unlike() -> None:
    similarity(np.ones((5, 2)), np.ones((6, 2)))


def test_the_last_frame_is_the_public_function():
    error = error_of(unlike)
    assert len(traceback.extract_tb(error.__traceback__)) > 4
    assert functions(error) == ["similarity"]
    assert functions(error_of(lambda: BridgePlan((), "image", "x", {}, 1, 1))) == ["__post_init__"]


def test_an_error_that_nobody_foresaw_is_shown_whole(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("raised by a test, which is no check")

    for broken in (fail, None, lambda *_, **__: np.linalg.inv(np.ones(3))):
        monkeypatch.setattr(scoring, "read_pair", broken)
        error = error_of(unlike)
        assert up_to_public_call(error, error.__traceback__) is error.__traceback__


def test_the_callers_own_frames_inside_a_call_are_kept(monkeypatch):
    monkeypatch.setattr(scoring, "read_pair", lambda *_, **__: BridgePlan((), "image", "x", {}, 1, 1))
    error = error_of(unlike)
    whole = [each.name for each in traceback.extract_tb(error.__traceback__)]
    shown = [each.name for each in traceback.extract_tb(up_to_public_call(error, error.__traceback__))]
    callback = len(whole) - whole[::-1].index("<lambda>")
    assert shown == [*whole[:callback], "__post_init__"]


def test_hook_prints_less_and_leaves_the_error_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    tracebacks.shorten_tracebacks()
    error = error_of(unlike)
    error.__cause__ = KeyError("what caused it")
    frames = error.__traceback__
    sys.excepthook(type(error), error, frames)
    printed = capsys.readouterr().err
    assert "in similarity" in printed.splitlines()[-3 if "^" not in printed else -4] and "what caused it" in printed
    assert error.__traceback__ is frames
    monkeypatch.setenv(tracebacks.SETTING, "full")
    sys.excepthook(type(error), error, frames)
    assert len(capsys.readouterr().err.splitlines()) > len(printed.splitlines())


@pytest.fixture
def shell():
    shell = InteractiveShell.instance(colors="nocolor")
    yield shell
    sys.excepthook = sys.__excepthook__
    InteractiveShell.clear_instance()


def test_cell_of_a_notebook(shell, capsys):
    tracebacks.shorten_tracebacks()
    result = shell.run_cell(CALL)
    shown = capsys.readouterr().out
    assert isinstance(result.error_in_exec, ValueError)
    assert "similarity(np.ones((5, 2)), np.ones((6, 2)))" in shown and "in similarity(" in shown
    assert shown.count("File ") == 1 and str(result.error_in_exec) in shown
    shell.run_line_magic("tb", "")
    assert capsys.readouterr().out.count("File ") > 2
    shell.run_cell("1 / 0")
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_handler_of_somebody_else_stays(shell):
    shell.set_custom_exc((KeyError,), lambda *_, **__: None)
    tracebacks.shorten_tracebacks()
    assert shell.custom_exceptions == (KeyError,)


def test_script(tmp_path):
    (tmp_path / "script.py").write_text(CALL)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("  File ") == 2 and done.stderr.splitlines()[-1].startswith(SAYS)
