"""Prompts that are longer than what a pipeline's text encoders read."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from bridgework.probes.stimuli.stimulus_set import Stimulus


@pytest.mark.parametrize(
    ("family", "limit", "whole"),
    [("SD 3.5", 77, 75), ("Flux", 77, 75), ("CogVideoX", 226, 225), ("AuraFlow", 256, 255)],
)
def test_prompts_that_are_cut(family, limit, whole, experts):
    """CLIP reads 75 words between its two marks, T5 one less than its longest input."""
    expert = experts(family)
    lengths = (3, whole, whole + 1, 3 * whole)
    stimuli = [Stimulus(Image.new("RGB", (32, 32)), "ab" * (n // 2) + "c" * (n % 2), str(n)) for n in lengths]
    shown = expert.show(stimuli, ("text",), "generation", None)
    assert (shown.cut, shown.limit) == ((2, 3), limit)
    assert expert.show(stimuli[:2], ("text",), "generation", None).cut == ()
    assert expert.show(stimuli, ("image",), "generation", 0.5).cut == ()


def test_diffusers_says_nothing_of_cuts_in_each_batch(experts):
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    expert, logger = experts("SD 3.5"), logging.getLogger("diffusers")
    stimuli = [Stimulus(Image.new("RGB", (32, 32)), "ab" * 60, "long")]
    logger.addHandler(handler)
    try:
        assert expert.show(stimuli, ("text",), "generation", None).cut == (0,)
        assert said == []
        expert.pipe.encode_prompt(*[stimuli[0].text] * 3)  # what it says otherwise
        assert any("input was truncated because" in message for message in said)
    finally:
        logger.removeHandler(handler)
