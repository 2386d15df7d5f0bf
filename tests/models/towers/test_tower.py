"""A tower reads the tokens of its stream out of whatever its blocks return, and writes them back."""

from __future__ import annotations

import pytest
import torch

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.models.towers.finding import find_tower
from bridgework.models.towers.visiting import visiting

from ..pairs import FLUX, LLAVA, LM, PIXART, SD3, UNET, WAN, Named, opened, said, traces


def test_one_sample_is_changed_alone():
    """Packed rows, maps and plain batches: the visit's batch is the batch."""
    packed = Named("Qwen2VLForConditionalGeneration", "model.visual.blocks")
    for named in (packed, UNET, PIXART, SD3, WAN):
        tower, run = opened(named)
        with torch.no_grad(), visiting(tower, {0: lambda s: s * torch.tensor([1.0, -3.0])[:, None, None]}):
            changed = run()
        with torch.no_grad():
            plain = run()
        now, then = (out.logits if hasattr(out, "logits") else out[0] for out in (changed, plain))
        torch.testing.assert_close(now[0], then[0], rtol=0, atol=1e-6)
        assert not torch.allclose(now[1], then[1], atol=1e-4)


@pytest.mark.parametrize("stream", ["image", "text", "both"])
def test_a_stream_is_what_the_bridge_enters(stream):
    tower, run = opened(FLUX._replace(stream=stream))
    tokens = {"image": 16, "text": 7, "both": 23}[stream]
    seen = []
    with torch.no_grad(), visiting(tower, {0: lambda state: seen.append(state.shape)}):
        run()
    assert seen == [(2, tokens, 32)]
    with torch.no_grad(), visiting(tower, {0: lambda own: seen.append(own.query[:, :, own.reads])}, inside=True):
        run()
    assert seen[1].shape[2] == tokens


def test_image_tokens_of_one_sequence():
    tower, run = opened(LLAVA._replace(stream="image"))
    outputs, seen = [], []
    block = tower.model.get_submodule(tower.blocks[1])
    with torch.no_grad(), visiting(tower, {1: lambda state: state + 1}):
        handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
        run()
        handle.remove()
    with torch.no_grad(), visiting(tower, {1: lambda state: seen.append(state)}):
        run()
        handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
        run()
        handle.remove()
    moved = (outputs[0] - outputs[1]).abs().amax((0, 2)) > 0.5
    assert moved.nonzero()[:, 0].tolist() == list(range(3, 19))
    assert seen[0].shape == (2, 16, 32)


def test_both_streams_come_image_first():
    for inside in (False, True):
        rows = {}
        for stream in ("image", "text", "both"):
            tower, run = opened(FLUX._replace(stream=stream))

            def visit(own, rows=rows, inside=inside, stream=stream):
                rows[stream] = own.query[:, :, own.reads] if inside else own

            with torch.no_grad(), visiting(tower, {1: visit}, inside):
                run()
        axis = 2 if inside else 1
        assert torch.equal(rows["both"], torch.cat([rows["image"], rows["text"]], axis))


def test_padding_is_known_to_visits():
    torch.manual_seed(0)
    tiny = ZOO[LM.model][1]()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    model = tiny.model.eval()
    tower = find_tower(model, tiny.inputs)
    seen = []
    for inside in (False, True):
        with visiting(tower, {0: lambda own: seen.append(tower.valid_tokens)}, inside):
            model(**tiny.inputs, attention_mask=mask)
            model(**tiny.inputs)
        assert torch.equal(seen[-2], mask.bool())
        assert seen[-1] is None
    assert tower.valid_tokens is None


def test_wrong_visits_are_refused():
    tower, run = opened(SD3)
    with pytest.raises(ValueError, match=r"block 4 of SD3Transformer2DModel, which has 4"), visiting(tower, {4: said}):
        pass
    with pytest.raises(ValueError, match=r"gave \(2, 32\) for states of \(2, 16, 32\)"), visiting(tower, {0: said}):
        run()
    text, run = opened(SD3._replace(stream="text"))
    with pytest.raises(ValueError, match=r"transformer_blocks.3' returns no text"), visiting(text, {3: said}):
        run()
    with pytest.raises(ValueError, match="inside block"), visiting(tower, {0: lambda own: own.own[:, :, :3]}, True):
        tower.model(**ZOO[SD3.model][1]().inputs)
    assert traces(tower.model, text.model) == (0, [])
