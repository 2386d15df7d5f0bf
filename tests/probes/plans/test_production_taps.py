"""The layers that production pipelines read are those of diffusers, and scale to towers of any depth."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers

from bridgework.models.costs.published import config_of
from bridgework.probes.plans.layouts import lay_out
from bridgework.probes.plans.production_taps import TAPS, published_taps


def written(module: str, name: str):
    """What a file of diffusers gives a name, as a default or a constant; it is read, not imported, which is quicker."""
    spec = find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    text = (Path(spec.origin).parent / f"{module}.py").read_text(encoding="utf-8")
    found = re.search(rf"{name}\b(?:: [^=\n]+)? = (\(.*\)|\d+)", text)
    assert found is not None, name
    return ast.literal_eval(found[1])


def test_the_layers_are_those_of_diffusers():
    assert TAPS["FLUX.2"].states == (written("pipelines/flux2/pipeline_flux2", "text_encoder_out_layers"),)
    assert TAPS["FLUX.2-klein"].states == (written("pipelines/flux2/pipeline_flux2_klein", "text_encoder_out_layers"),)
    assert TAPS["FLUX.3"].states == (written("modular_pipelines/flux3/encoders", "hidden_states_layers"),)
    assert TAPS["Krea-2"].states == (written("pipelines/krea2/pipeline_krea2", "text_encoder_select_layers"),)
    fibo = written("pipelines/bria_fibo2/pipeline_bria_fibo2", "TEXT_ENCODER_OUT_LAYERS")
    assert TAPS["Fibo-2"].states == fibo[1:]
    ideogram = written("pipelines/ideogram4/pipeline_ideogram4", "QWEN3_VL_ACTIVATION_LAYERS")
    assert TAPS["Ideogram-4"].states == (tuple(block + 1 for block in ideogram),)
    skipped = written("pipelines/hunyuan_video/pipeline_hunyuan_video", "num_hidden_layers_to_skip")
    assert TAPS["HunyuanVideo"].states == ((-1 - skipped,),)
    skipped = written("pipelines/hunyuan_image/pipeline_hunyuanimage", "hidden_state_skip_layer")
    assert TAPS["HunyuanImage"].states == ((-1 - skipped,),)


@pytest.mark.parametrize(
    ("pipeline", "config", "transformer", "width", "parts"),
    [
        ("FLUX.2", "Mistral3Config", "transformer_flux2", "joint_attention_dim", 3),
        ("HunyuanVideo", "LlamaConfig", "transformer_hunyuan_video", "text_embed_dim", 1),
        ("CogView4", "GlmConfig", "transformer_cogview4", "text_embed_dim", 1),
        ("Sana", "Gemma2Config", "sana_transformer", "caption_channels", 1),
        ("HunyuanImage", None, "transformer_hunyuanimage", "text_embed_dim", 1),
        ("Qwen-Image", None, "transformer_qwenimage", "joint_attention_dim", 1),
    ],
)
def test_a_known_depth_is_of_a_config_that_has_the_width_which_the_pipeline_takes(
    pipeline, config, transformer, width, parts
):
    if config is None:
        published = config_of("qwen2.5-vl-7b")
        text = published.get("text_config", published)
    else:
        text = getattr(transformers, config)().get_text_config().to_dict()
    assert TAPS[pipeline].depth == text["num_hidden_layers"]
    assert written(f"models/transformers/{transformer}", width) == parts * text["hidden_size"]


def test_every_known_depth_was_checked():
    known = {"FLUX.2", "HunyuanVideo", "CogView4", "Sana", "HunyuanImage", "Qwen-Image"}
    assert {name for name, taps in TAPS.items() if taps.depth is not None} == known


def test_hidden_states_become_blocks_of_the_same_depth():
    assert published_taps("FLUX.2", 40, 9) == ((9, 19, 29),)
    assert published_taps("FLUX.2", 16, 9) == ((3, 7, 11),)
    assert published_taps("FLUX.2", 6, 9) == ((1, 2, 4),)  # 1.5, 3 and 4.5 blocks deep
    assert published_taps("Ideogram-4", 36, 9, depth=36) == ((0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 35),)
    assert published_taps("Qwen-Image", 28, 9) == ((27,),)
    assert published_taps("CogView4", 40, 9) == ((38,),)
    assert published_taps("HunyuanVideo", 32, 9) == ((29,),)
    assert published_taps("Krea-2", 3, 9, depth=36) == ((0, 1, 2),)  # twelve layers fall on three blocks
    assert published_taps("MiniMax-H3", 64, 9, depth=64) == ((49,),)


def test_parts_of_a_generator_read_their_own_blocks():
    each = published_taps("Fibo-2", 36, 10, depth=36)
    assert each is not None and len(each) == 10
    assert each[:2] == ((4, 15, 26),) * 2 and each[-2:] == ((12, 23, 34),) * 2
    assert lay_out("soft", 36, 10, taps=each).mixed_blocks(9) == (12, 23, 34)


@pytest.mark.parametrize("pipeline", list(TAPS))
def test_every_pipeline_is_a_plan_at_any_depth(pipeline):
    for layers in (1, 6, 16, 30, 80):
        taps = published_taps(pipeline, layers, 13, depth=None if TAPS[pipeline].depth else 64)
        plan = lay_out("soft", layers, 13, taps=taps)
        assert plan.mixed_blocks(12)
        assert (plan.taps is None) == (pipeline in ("HiDream", "LTX-2"))


def test_a_pipeline_by_name():
    plan = lay_out("soft", 30, 13, taps="FLUX.2")
    assert (plan.taps, plan.evidence) == (((7, 14, 22),), {"taps of": "FLUX.2"})
    assert lay_out("soft", 30, 13, taps="LTX-2").taps is None


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: lay_out("soft", 30, 13, taps="FLUX.9"), "unknown pipeline 'FLUX.9': expected one of FLUX.2,"),
        (
            lambda: lay_out("soft", 30, 13, taps="Krea-2"),
            r"Krea-2 \(Qwen3-VL\) has .*=published_taps\('Krea-2', 30, 13, depth=\)",
        ),
        (lambda: lay_out("H", 30, 13, taps="HiDream"), "the layout 'H' takes no taps: only soft does"),
        (
            lambda: published_taps("FLUX.2", 30, 13, depth=24),
            r"reads hidden state 30, and .* of 24 are 1 to 24",
        ),
        (lambda: published_taps("NucleusMoE-Image", 30, 13, depth=6), "reads hidden state -1"),
    ],
)
def test_what_cannot_be_scaled_is_said(call, told):
    with pytest.raises(ValueError, match=told):
        call()
