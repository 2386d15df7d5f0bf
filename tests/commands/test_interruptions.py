"""Interruptions of commands: one line, status 130, whatever a library makes of them."""

from __future__ import annotations

import shlex
import signal

import pytest

from bridgework.__main__ import COMMANDS
from bridgework.tests.test_command_line import run_to_exit


@pytest.fixture(autouse=True)
def heard():
    """Hear SIGINT as a terminal's programs do: a shell that starts tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_is_reported(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bridgework.models.evaluation.reporting.open_expert", interrupted)
    status, text = run_to_exit(capsys, "evaluate", "scenes-vlm")
    assert status == 130
    assert text == "bridgework: stopped; run the same command again to resume\n"


def test_an_interruption_that_a_library_turns_into_an_error_is_one(monkeypatch, capsys):
    def interrupted(*_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("cannot import name") from None

    monkeypatch.setattr("bridgework.models.evaluation.reporting.open_expert", interrupted)
    status, text = run_to_exit(capsys, "evaluate", "scenes-vlm")
    assert status == 130
    assert text == "bridgework: stopped; run the same command again to resume\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_interrupted_with_one_line(name, monkeypatch, capsys):
    interrupted = COMMANDS[name]._replace(run=lambda **_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setitem(COMMANDS, name, interrupted)
    status, text = run_to_exit(capsys, *shlex.split(interrupted.example)[1:])
    assert (status, text) == (130, "bridgework: stopped; run the same command again to resume\n")
