"""A fused model as a subject: text reaches its features through the bridges, and through nothing else."""

from __future__ import annotations

import pytest
import torch

from bridgework.models.fusion.probe_subject import fused_subject
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli


def other_texts(stimuli: Stimuli) -> Stimuli:
    """Longer by the same, so that they are sorted into the same batches: last bits depend on these."""
    return Stimuli([s._replace(text=f"{s.text} , a ring") for s in stimuli])


@pytest.fixture
def fused(fuse, plan):
    fused = fuse(plan)
    with torch.no_grad():
        for bridge in fused.bridges:
            bridge.gate.fill_(1.0)
    return fused


def test_understanding_is_the_expert_itself(fused, stimuli, tiny_vlm):
    subject = fused_subject(fused, "understanding")
    assert (subject.name, subject.tasks) == ("fused", ("understanding",))
    seen, expert = extract(subject, stimuli), extract(tiny_vlm, stimuli)
    for modality in ("image", "text"):
        assert torch.equal(seen[modality].values, expert[modality].values)


def test_generation_reads_text_through_the_bridges(fused, stimuli, plan):
    subject = fused_subject(fused, "generation")
    seen = extract(subject, stimuli, timesteps=(0.5,))
    assert set(seen) == {"image", "text"}
    for part in seen.values():
        assert part.values.shape == (4, 5, 12)
        assert part.task == "generation"
    other = extract(subject, other_texts(stimuli), timesteps=(0.5,))
    assert torch.equal(seen["image"].values, other["image"].values)
    assert torch.equal(seen["text"].values[0], other["text"].values[0])  # the first bridge is in the first block
    for layer in range(1, 4):
        assert not torch.equal(seen["text"].values[layer], other["text"].values[layer])


def test_closed_gates_leave_text_features_to_the_noise(fuse, plan, stimuli, tiny_dit):
    subject = fused_subject(fuse(plan), "generation")
    seen = extract(subject, stimuli, timesteps=(0.5,))
    other = extract(subject, other_texts(stimuli), timesteps=(0.5,))
    assert torch.equal(seen["text"].values, other["text"].values)
    expert = extract(tiny_dit, stimuli, timesteps=(0.5,))
    assert torch.equal(seen["image"].values, expert["image"].values)


def test_an_early_stop_leaves_nothing_behind(fused, stimuli):
    extract(fused_subject(fused, "generation"), stimuli, timesteps=(0.5,))
    assert torch._C._len_torch_function_stack() == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fused.modules())


def test_no_joint_pass_and_no_third_task(fused, stimuli):
    with pytest.raises(ValueError, match="fused has no joint pass"):
        extract(fused_subject(fused, "generation"), stimuli, timesteps=(0.5,), joint=True)
    with pytest.raises(ValueError, match="unknown task 'chess': expected understanding or generation"):
        fused_subject(fused, "chess")
