"""Steps are numbered, and the time that is left follows from those that have run."""

from __future__ import annotations

import pytest

from bridgework.studies.effect.numbered_steps import Step, run_steps, time_left


def test_time_left_follows_the_pace_of_the_steps_that_ran(capsys):
    now = [0.0]

    def spend(seconds):
        now[0] += seconds

    steps = [
        Step("first", 60, lambda: spend(120)),  # twice as long as expected
        Step("second", 60, lambda: spend(0.1)),  # was done by an earlier run, and says nothing of the pace
        Step("third", 120, lambda: spend(240)),
        Step("fourth", 20, lambda: spend(40)),
    ]
    run_steps(steps, clock=lambda: now[0])
    assert capsys.readouterr().out.splitlines() == [
        "step 1 of 4: first, about 4 min left",
        "step 2 of 4: second, about 7 min left",
        "step 3 of 4: third, about 5 min left",
        "step 4 of 4: fourth, about 40 s left",
        "done in 7 min",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "about 10 s"), (89, "about 90 s"), (91, "about 2 min")])
def test_time_left_in_words(seconds, text):
    assert time_left(seconds) == f"{text} left"
