"""Bad inputs of opening experts, of joining them, and of one trunk: what is wrong is said before weights are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bridgework.models import (
    FusedModel,
    Fusion,
    LatentGenerator,
    TextStates,
    UnifiedModel,
    UnifiedTokens,
    find_tower,
    fused_subject,
    keep_text_states,
    open_expert,
)
from bridgework.models.fusion.trained_parts import adapt
from bridgework.models.towers.finding import Tower
from bridgework.probes.plans import lay_out
from bridgework.tests.bad_inputs.frame import BadInput

PLAN, TRUNK = lay_out("H", 4, 3), lay_out("Y", 4, 4)
HUGE = 10**30


def vlm(**options: Any) -> Any:
    return lambda: open_expert("scenes-vlm", **options)


def named(name: Any) -> Any:
    return lambda: open_expert(name)


def blocks() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return blocks()


class Reader:
    """An understanding expert without a model."""

    modalities = ("text",)


class Drawer:
    """A generation expert on the meta device."""

    model = on_meta()

    def predict(self, *given: Any) -> Any:
        raise AssertionError("drawing has begun")


def tower() -> Tower:
    return Tower.__new__(Tower)


def kept(**options: Any) -> Any:
    return lambda here: keep_text_states(**{"expert": Reader(), "captions": ["a"], "folder": here} | options)


def trunk_rows(kind: Any) -> list[BadInput]:
    """The rows of a class of models with one trunk."""
    name = kind.__name__
    return [
        BadInput(name, "a layout as a plan", lambda: kind("Y", None, None), ["the plan is a str"], "type", TypeError),
        BadInput(name, "no config", lambda: kind(TRUNK, {}, None), ["the config is a dict"], "type", TypeError),
        BadInput(f"{name}.from_experts", "names of experts", lambda: kind.from_experts(TRUNK, "scenes-vlm",
                 "scenes-dit"),
                 ["a LlavaExpert and a DitExpert"], "type", TypeError),
        BadInput(f"{name}.load", "a folder that is missing", lambda: kind.load("missing"),
                 ["no bridge plan missing"], "missing", FileNotFoundError),
        BadInput(f"{name}.load", "a number", lambda: kind.load(3), ["folder is 3"], "type", TypeError),
    ]  # fmt: skip


ROWS = [
    BadInput("open_expert", "a near name", lambda: open_expert("scenes-vml"), ["the nearest is 'scenes-vlm'"], "name"),
    BadInput("open_expert", "a name in capitals", lambda: open_expert("DINOv2-s"), ["the nearest is 'dinov2-s'"],
             "name"),
    BadInput("open_expert", "no name", lambda: open_expert(""), ["the name of the expert is empty"], "missing"),
    BadInput("open_expert", "None", named(None), ["the name of the expert is None"], "type", TypeError),
    BadInput("open_expert", "a number", named(3), ["the name of the expert is 3"], "type", TypeError),
    BadInput("open_expert", "a model", named(blocks()), ["expected a path"], "type", TypeError),
    BadInput("open_expert", "a relative folder that is missing", lambda: open_expert("./missing"),
             ["there is no folder ./missing", "name a folder"], "missing", FileNotFoundError),
    BadInput("open_expert", "a whole path that is missing", lambda: open_expert("/no/such/folder"),
             ["there is no folder /no/such/folder"], "missing", FileNotFoundError),
    BadInput("open_expert", "a missing folder that looks like a Hub id", lambda: open_expert("runs/model"),
             ["there is no folder runs/model", "hf download runs/model"], "missing", FileNotFoundError),
    BadInput("open_expert", "a folder of three parts", lambda: open_expert("a/b/c"), ["no folder a/b/c"], "missing",
             FileNotFoundError),
    BadInput("open_expert", "an empty folder", open_expert, ["config.json"], "file", FileNotFoundError),
    BadInput("open_expert", "a zero byte", lambda: open_expert("a\0b"), ["zero byte"], "name"),
    BadInput("open_expert", "random weights in words", vlm(random_weights="yes"), ["random_weights"],
             "type", TypeError),
    BadInput("open_expert", "a seed below 0", vlm(random_weights=True, seed=-1), ["seed is -1"], "range"),
    BadInput("open_expert", "an endless seed", vlm(random_weights=True, seed=HUGE), ["seed is"], "range"),
    BadInput("open_expert", "a front that is a number", vlm(front=3), ["front is 3"], "type", TypeError),
    BadInput("open_expert", "chat that is a text", vlm(chat="yes"), ["chat is 'yes'"], "type", TypeError),
    BadInput("open_expert", "an unknown format", vlm(dtype="fp8"), ["dtype", "fp32, bf16, fp16"], "name"),
    BadInput("open_expert", "whole numbers as a format", vlm(dtype=torch.int8), ["dtype", "fp32"], "type"),
    BadInput("open_expert", "an unknown place", vlm(device_map="everywhere"), ["'everywhere'", "'cuda:1'"], "name"),
    BadInput("open_expert", "a list of places", vlm(device_map=["cpu"]), ["device_map", "a dict"], "type", TypeError),
    BadInput("open_expert", "an unknown quantisation", vlm(quantization="4bit"), ["'4bit'", "bitsandbytes_4bit"],
             "name"),
    BadInput("open_expert", "a quantisation of 4", vlm(quantization=4), ["quantization", "a config"], "type"),
    BadInput("open_expert", "random weights in another place", vlm(random_weights=True, device_map="auto"),
             ["drawn at random", "leave device_map"], "conflict"),
    BadInput("FusedModel", "a layout as a plan", lambda: FusedModel(None, None, "H"), ["the plan is a str"],
             "type", TypeError),
    BadInput("FusedModel", "a plan of one trunk", lambda: FusedModel(None, None, TRUNK), ["one trunk"], "conflict"),
    BadInput("FusedModel", "no experts", lambda: FusedModel(None, None, PLAN), ["in this order"], "type", TypeError),
    BadInput("FusedModel", "names of experts", lambda: FusedModel("scenes-vlm", "scenes-dit", PLAN),
             ["expected an expert that reads text"], "type", TypeError),
    BadInput("FusedModel", "a generator without values", lambda: FusedModel(Reader(), Drawer(), PLAN),
             ["meta device", "open the model"], "content"),
    BadInput("FusedModel.load", "a folder that is missing", lambda: FusedModel.load("missing", None, None),
             ["no bridge plan missing"], "missing", FileNotFoundError),
    BadInput("FusedModel.load", "a number", lambda: FusedModel.load(3, None, None), ["folder is 3"], "type", TypeError),
    BadInput("Fusion", "a layout as a plan", lambda: Fusion(tower(), tower(), "H", ()), ["the plan is a str"],
             "type", TypeError),
    BadInput("Fusion", "a plan of one trunk", lambda: Fusion(tower(), tower(), TRUNK, ()), ["one trunk"], "conflict"),
    BadInput("Fusion", "models as towers", lambda: Fusion(blocks(), blocks(), PLAN, ()),
             ["the understanding tower is a Sequential", "find_tower"], "type", TypeError),
    BadInput("Fusion", "no passes", lambda: Fusion(tower(), tower(), PLAN, (3, 4)),
             ["examples", "a function"], "type", TypeError),
    BadInput("find_tower", "no model", lambda: find_tower(None, {}), ["the model is a NoneType"], "type", TypeError),
    BadInput("find_tower", "a list of inputs", lambda: find_tower(blocks(), [1]), ["inputs are a list"],
             "type", TypeError),
    BadInput("find_tower", "an unknown stream", lambda: find_tower(blocks(), {}, stream="imgae"),
             ["the nearest is 'image'"], "name"),
    BadInput("find_tower", "kinds that are a text", lambda: find_tower(blocks(), {}, kinds="image"),
             ["kinds is 'image'"],
             "type", TypeError),
    BadInput("find_tower", "a model without values", lambda: find_tower(on_meta(), {}), ["meta device", "0.weight"],
             "content"),
    BadInput("fused_subject", "no fused model", lambda: fused_subject(None, "generation"), ["a FusedModel"],
             "type", TypeError),
    BadInput("fused_subject", "an unknown task", lambda: fused_subject(FusedModel.__new__(FusedModel), "generate"),
             ["the nearest is 'generation'"], "name"),
    BadInput("keep_text_states", "no expert", kept(expert=None), ["a NoneType reads no text"], "type", TypeError),
    BadInput("keep_text_states", "one caption as a text", kept(captions="a cat"), ["captions is 'a cat'"],
             "type", TypeError),
    BadInput("keep_text_states", "captions that are numbers", kept(captions=[3]), ["captions is [3]"],
             "type", TypeError),
    BadInput("keep_text_states", "an unknown format", kept(dtype="bfloat16"), ["the nearest is 'float16'"], "name"),
    BadInput("keep_text_states", "a batch of 0", kept(batch_size=0), ["batch_size is 0"], "range"),
    BadInput("keep_text_states", "a side in words", kept(inside="yes"), ["inside is 'yes'"], "type", TypeError),
    BadInput("keep_text_states", "a number as a folder", kept(folder=3), ["folder is 3"], "type", TypeError),
    BadInput("TextStates", "a folder without states", TextStates, ["holds no text states"],
             "missing", FileNotFoundError),
    BadInput("TextStates", "a number", lambda: TextStates(3), ["folder is 3"], "type", TypeError),
    BadInput("LatentGenerator", "no pipeline", lambda: LatentGenerator(None), ["a diffusers pipeline"],
             "type", TypeError),
    BadInput("adapt", "an unknown word", lambda: adapt(blocks(), ["0"], "Lora"), ["the nearest is 'lora'"], "name"),
    BadInput("adapt", "a rank of 0", lambda: adapt(blocks(), ["0"], "lora", 0), ["rank is 0"], "range"),
    BadInput("adapt", "half a rank", lambda: adapt(blocks(), ["0"], "lora", 2.5), ["rank is 2.5"], "type", TypeError),
    *trunk_rows(UnifiedModel),
    *trunk_rows(UnifiedTokens),
]  # fmt: skip
