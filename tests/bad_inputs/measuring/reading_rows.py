"""Bad inputs of what reads models: extraction, capture, subjects, checks, evidence, and the features that come out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from bridgework.probes import (
    AnyModel,
    Features,
    LayerFeatures,
    attention_mass,
    attribute,
    capture,
    check_model,
    extract,
    extract_cached,
    extract_on_ray,
    find_stacks,
    find_streams,
    gradient_conflict,
    hidden_states_index,
    layer_of_hidden_states,
    read_hidden_states,
)
from bridgework.probes.hooks.run_errors import LayerNeverRan, LayerRanAgain
from bridgework.tests.bad_inputs.frame import rows_of
from bridgework.tests.bad_inputs.good_inputs import features, layer_features, layers, plan_file, stimuli, store, toy
from bridgework.tests.probes.toys import Stack, Toy

BLOCKS = ["layers.0", "layers.1"]


def anything(value) -> Any:
    """A value whose type nobody checks."""
    return value


def on_meta():
    """A model whose weights hold no values."""
    with torch.device("meta"):
        return Toy(Stack())


def read(model, *paths, **options):
    """Capture blocks in a pass over zeros."""
    with capture(model, *paths, **options) as taps:
        model(torch.zeros(1, 4, 6))
    return taps


def entered_again() -> None:
    context = capture(toy().model, BLOCKS, stop=False)
    with suppress(LayerNeverRan), context:
        pass
    with context:
        pass


def second_turn():
    """A second pass behind a capture that was inside another."""
    model = toy().model
    with capture(model, BLOCKS):
        with capture(model, BLOCKS[:1]):
            model(torch.zeros(1, 4, 6))
        model(torch.zeros(1, 4, 6))


def attributed(value, **options):
    """Attribute an output that a user's function makes of the model's."""
    return attribute(toy(), stimuli(), lambda result, shown, _: value(result), steps=2, batch_size=2, **options)


def losses(value):
    """Two tasks of four batches, each with this loss."""
    model = toy().model
    batches = [lambda: value(model(torch.ones(1, 4, 6)).mean())] * 4
    return gradient_conflict(model, BLOCKS, {"one": batches, "other": batches}, splits=1)


def asked(**options):
    return extract(toy(), stimuli(), **options)


ROWS = [
    *rows_of(
        "extract",
        ("a module", lambda: extract(nn.Linear(2, 2), stimuli()), ["the subject is a Linear", "AnyModel"], "type"),
        ("the name of an expert", lambda: extract("scenes-vlm", stimuli()), ["the subject is a str"], "type"),
        ("a class", lambda: extract(Toy, stimuli()), ["the subject is a type", "open_expert"], "type"),
        ("images alone", lambda: extract(toy(), [stimuli()[0]]), ["stimuli is a list", "load_stimuli"], "type"),
        ("weights on the device meta", lambda: extract(on_meta(), stimuli()), ["device meta", "load"], "content"),
        (
            "an unknown task",
            lambda: asked(task="understand"),
            ["unknown task 'understand'", "the nearest is 'understanding'"],
            "name",
        ),
        (
            "a task of another model",
            lambda: asked(task="generation"),
            ["unknown task 'generation'", "toy has"],
            "conflict",
        ),
        ("a timestep beyond noise", lambda: asked(timesteps=(2.0,)), ["timesteps (2.0,)", "to 1 (noise)"], "range"),
        ("layers as an array without an axis", lambda: asked(layers=np.array(3)), ["layers is", "a list"], "shape"),
        (
            "layers as a tensor",
            lambda: asked(layers=torch.zeros(2, 3)),
            ["layers is", "a list of names"],
            "type",
            ValueError,
        ),
        ("a function as a format", lambda: asked(dtype=len), ["dtype is", "torch.float32"], "type", ValueError),
        ("tokens that are texts", lambda: asked(tokens={"text": ["a"]}), ["tokens['text']", "a mask"], "type"),
        ("tokens as one number", lambda: asked(tokens={"text": 3}), ["tokens['text'] is 3", "positions"], "type"),
        ("a store with a zero byte", lambda: asked(store="a\0b"), ["store is", "zero byte"], "content"),
        ("a store without a name", lambda: asked(store=""), ["store is empty"], "missing"),
        (
            "half of a character in a store",
            lambda: asked(store="\ud800"),
            ["store is", "half of a character"],
            "content",
        ),
        ("a task that is a list", lambda: asked(task=["understanding"]), ["unknown task"], "name"),
        ("timesteps of a still model", lambda: asked(timesteps=(0.5,)), ["toy takes no timesteps"], "conflict"),
        ("timesteps as a text", lambda: asked(timesteps="0.5"), ["timesteps is '0.5'"], "type", ValueError),
        ("a flag that is a text", lambda: asked(joint="false"), ["joint is 'false'", "True or False"], "type"),
        ("an unknown layer", lambda: asked(layers=["99"]), ["no layer '99'"], "name"),
        ("layers as one text", lambda: asked(layers="0"), ["layers is '0'", "a list of names"], "type", ValueError),
        ("no layers", lambda: asked(layers=[]), ["layers is []", "a list of names"], "shape"),
        ("an unknown pooling", lambda: asked(pooling="avg"), ["unknown pooling 'avg'", "mean"], "name"),
        ("a pooling that is a number", lambda: asked(pooling=3), ["pooling is 3", "a text"], "type"),
        ("an unknown precision", lambda: asked(precision="bf61"), ["the nearest is 'bf16'"], "name"),
        (
            "an unknown format",
            lambda: asked(dtype="float64"),
            ["dtype is float64", "torch.float32"],
            "type",
            ValueError,
        ),
        ("a device that is missing", lambda: asked(device="cuda:99"), ["device is 'cuda:99'"], "missing"),
        ("the device meta", lambda: asked(device="meta"), ["device is 'meta'", "'auto'"], "name"),
        ("batches of 0", lambda: asked(batch_size=0), ["batch_size is 0", "at least 1"], "range"),
        ("batches of True", lambda: asked(batch_size=True), ["batch_size is True"], "type"),
        ("endless batches", lambda: asked(batch_size=10**30), ["batch_size is 1000"], "range"),
        ("calls of 0", lambda: asked(calls=0), ["calls is 0"], "range"),
        ("an unknown word for calls", lambda: asked(calls="al"), ["calls", "nearest is 'all'"], "name"),
        ("written tokens of a mute model", lambda: asked(generate=3), ["does not generate text"], "conflict"),
        ("written tokens of True", lambda: asked(generate=True), ["generate is True"], "type"),
        ("tokens of another modality", lambda: asked(tokens={"audio": [0]}), ["'audio' are chosen"], "name"),
        ("tokens that are a list", lambda: asked(tokens=[0]), ["tokens is [0]", "{'text'"], "type"),
        ("a store that is a file", lambda: asked(store=plan_file()), ["is a file", "extract into"], "file"),
        ("a store that is a number", lambda: asked(store=3), ["store is 3", "a path"], "type"),
    ),
    *rows_of(
        "extract_cached",
        ("a number as a folder", lambda: extract_cached(3, toy(), stimuli()), ["folder is 3", "a path"], "type"),
        (
            "an unknown option",
            lambda here: extract_cached(here, toy(), stimuli(), bach_size=2),
            ["nearest is 'batch_size'"],
            "name",
        ),
    ),
    *rows_of(
        "extract_on_ray",
        ("a subject that is open", lambda: extract_on_ray(toy(), stimuli(), "a"), ["open_subject is"], "type"),
        ("an unknown option", lambda: extract_on_ray(lambda: toy(), stimuli(), "a", jont=1), ["'joint'"], "name"),
        ("a list of stimuli", lambda: extract_on_ray(lambda: toy(), [], "a"), ["stimuli is []"], "type"),
    ),
    *rows_of(
        "capture",
        ("no model", lambda: read(None, BLOCKS), ["model is None", "a torch module"], "type"),
        ("an unknown layer", lambda: read(toy().model, ["layer.0"]), ["unknown layer 'layer.0'", "layers"], "name"),
        ("one text", lambda: read(toy().model, "layers.0"), ["layers is 'layers.0'", "a list"], "type"),
        ("the embeddings alone", lambda: read(toy().model, ["embeddings"]), ["no block to capture"], "missing"),
        ("a layer twice", lambda: read(toy().model, BLOCKS[:1] * 2), ["a layer is named twice"], "conflict"),
        ("no calls", lambda: read(toy().model, BLOCKS, calls=0), ["calls is 0", "at least 1"], "range"),
        ("a function that is a number", lambda: read(toy().model, BLOCKS, keep=3), ["keep is 3"], "type"),
        (
            "a context that is entered again",
            entered_again,
            ["this capture", "call capture again"],
            "conflict",
            RuntimeError,
        ),
        ("layers of lists", lambda: read(toy().model, [["layers.0"]]), ["layers holds", "a list of paths"], "type"),
        ("sites that are numbers", lambda: read(toy().model, BLOCKS, sites=[3]), ["sites holds 3", "paths"], "type"),
        (
            "layers as an array without an axis",
            lambda: read(toy().model, np.array(3)),
            ["layers is"],
            "shape",
            TypeError,
        ),
        ("a second turn inside another capture", second_turn, ["layers.0"], "conflict", LayerRanAgain),
    ),
    *rows_of(
        "find_stacks",
        ("nothing", lambda: find_stacks(None), ["model is None", "a torch module"], "type"),
        ("a model without blocks", lambda: find_stacks(nn.Linear(2, 2)), ["Linear has no stack"], "content"),
    ),
    *rows_of(
        "find_streams",
        ("nothing", lambda: find_streams(None, {}), ["model is None"], "type"),
        ("inputs that are a list", lambda: find_streams(toy().model, [1]), ["inputs"], "type"),
    ),
    *rows_of(
        "AnyModel",
        ("no function", lambda: AnyModel(toy().model, None), ["inputs is None", "takes stimuli"], "type"),
        ("no model", lambda: AnyModel("llama", lambda shown: {}), ["model is 'llama'", "a torch module"], "type"),
        (
            "an unknown stack",
            lambda: AnyModel(toy().model, lambda shown: {}, stack="layer"),
            ["no stack 'layer'", "'layers'"],
            "name",
        ),
        (
            "modalities as one text",
            lambda: AnyModel(toy().model, lambda shown: {}, modalities="image"),
            ["modalities is 'image'", "a tuple"],
            "type",
        ),
        (
            "an unknown task",
            lambda: AnyModel(toy().model, lambda shown: {}, modalities=("image",), tasks=("drawing",)),
            ["unknown task 'drawing'", "understanding"],
            "name",
        ),
    ),
    *rows_of(
        "hidden_states_index",
        ("a layer of True", lambda: hidden_states_index(toy().model, True), ["layer is True"], "type"),
        ("an unknown stack", lambda: hidden_states_index(toy().model, 0, stack="a"), ["no stack 'a'"], "name"),
    ),
    *rows_of(
        "layer_of_hidden_states",
        ("half an index", lambda: layer_of_hidden_states(toy().model, 1.5), ["index is 1.5"], "type"),
        ("inputs that are a list", lambda: layer_of_hidden_states(toy().model, 1, [3]), ["inputs is [3]"], "type"),
    ),
    *rows_of(
        "check_model",
        ("a module", lambda: check_model(nn.Linear(2, 2), stimuli()), ["the subject is a Linear"], "type"),
        ("a name of stimuli", lambda: check_model(toy(), "noto"), ["stimuli is a str", "load_stimuli"], "type"),
        ("a timestep of NaN", lambda: check_model(toy(), stimuli(), timesteps=(np.nan,)), ["timesteps is"], "finite"),
        ("the device meta", lambda: check_model(toy(), stimuli(), device="meta"), ["device is 'meta'"], "name"),
    ),
    *rows_of(
        "attribute",
        ("a module", lambda: attribute(nn.Linear(2, 2), stimuli(), print), ["the subject is a Linear"], "type"),
        ("no function", lambda: attribute(toy(), stimuli(), None), ["output is None", "a tensor"], "type"),
        ("an unknown method", lambda: attributed(float, method="ablate"), ["nearest is 'ablation'"], "name"),
        ("one step", lambda: attribute(toy(), stimuli(), print, steps=1), ["steps is 1", "at least 2"], "range"),
        ("a number as output", lambda: attributed(lambda result: 1.0), ["output gave a float", "a tensor"], "type"),
        (
            "an output of another shape",
            lambda: attributed(lambda result: result),
            ["output gave", "one number"],
            "shape",
        ),
        (
            "an output of NaN",
            lambda: attributed(lambda result: result.mean((1, 2)) * np.nan),
            ["output gave nan", "finite"],
            "finite",
        ),
    ),
    *rows_of(
        "attention_mass",
        ("a module", lambda: attention_mass(nn.Linear(2, 2), stimuli()), ["the subject is a Linear"], "type"),
        ("a model without attention", lambda: attention_mass(toy(), stimuli()), ["no block of toy attends"], "content"),
    ),
    *rows_of(
        "gradient_conflict",
        ("no model", lambda: gradient_conflict(None, BLOCKS, {}), ["model is None"], "type"),
        ("blocks as one text", lambda: gradient_conflict(toy().model, "layers.0", {}), ["blocks is"], "type"),
        ("one task", lambda: gradient_conflict(toy().model, BLOCKS, {"a": []}), ["the batches of a is []"], "shape"),
        (
            "a task that is a function",
            lambda: gradient_conflict(toy().model, BLOCKS, {"a": anything(print)}),
            ["of a is"],
            "type",
        ),
        ("no splits", lambda: gradient_conflict(toy().model, BLOCKS, {}, splits=0), ["splits is 0"], "range"),
        ("a loss of NaN", lambda: losses(lambda loss: loss * np.nan), ["gave the loss nan", "finite"], "finite"),
        ("a loss that is a number", lambda: losses(float), ["gave float", "a tensor"], "type"),
        ("a loss without a gradient", lambda: losses(torch.Tensor.detach), ["without a gradient"], "content"),
    ),
    *rows_of(
        "Features",
        ("a list", lambda: Features([layer_features()]), ["modalities is", "by their modality"], "type"),
        ("an array", lambda: Features({"image": anything(layers())}), ["the part 'image' of modalities"], "type"),
        (
            "another modality",
            lambda: Features({"text": layer_features()}),
            ["under 'text'", "by its modality"],
            "conflict",
        ),
        ("a modality that is missing", lambda: features()["audio"], ["no 'audio' features"], "name", KeyError),
        ("no store", lambda here: Features.load(here), ["no features in", "extract"], "missing", FileNotFoundError),
        ("a number as a store", lambda: Features.load(3), ["folder is 3", "a path"], "type"),
        ("a file as a store", lambda: Features.load(plan_file()), ["is a file", "folder"], "file"),
        (
            "another store",
            lambda: Features({"image": layer_features(seed=5)}).save(store()),
            ["differently"],
            "conflict",
        ),
    ),
    *rows_of(
        "LayerFeatures",
        (
            "a frame as a layer",
            lambda: layer_features().at_layer(pd.DataFrame()),
            ["layer is", "a whole number"],
            "type",
        ),
        ("a text as a timestep", lambda: layer_features().at("noon"), ["timestep is 'noon'", "finite number"], "type"),
        ("an array", lambda: layer_features(layers=("0",)), ["1 layers for 3"], "shape"),
        ("layers as one text", lambda: layer_features(layers="abc"), ["layers is 'abc'", "a tuple"], "type"),
        ("an unknown modality", lambda: layer_features("picture"), ["unknown modality 'picture'", "image"], "name"),
        ("an unknown pooling", lambda: layer_features(pooling="max"), ["unknown pooling 'max'", "mean"], "name"),
        ("a layer twice", lambda: layer_features(layers=("0", "0", "1")), ["given twice"], "conflict"),
        ("an unknown layer", lambda: layer_features().layer("9"), ["no layer '9'", "embeddings"], "name"),
        ("a depth above 1", lambda: layer_features().at_layer(1.5), ["0 to 1, got 1.5"], "range"),
        ("a timestep of none", lambda: layer_features().at(0.5), ["timestep"], "conflict"),
        (
            "values that are an array",
            lambda: LayerFeatures(**vars(layer_features()) | {"values": np.zeros((3, 24, 5))}),
            ["values must be", "tensor"],
            "type",
            ValueError,
        ),
    ),
    *rows_of(
        "read_hidden_states",
        (
            "no files",
            lambda here: read_hidden_states(here, (1,), 2),
            ["no safetensors files"],
            "missing",
            FileNotFoundError,
        ),
        ("a layer twice", lambda: read_hidden_states("a", (1, 1), 2), ["layer_ids are (1, 1)"], "conflict"),
        ("a layer that is a text", lambda: read_hidden_states("a", ("x",), 2), ["layer_ids is"], "type"),
        ("no blocks", lambda: read_hidden_states("a", (1,), 0), ["blocks is 0"], "range"),
        ("an unknown pooling", lambda: read_hidden_states("a", (1,), 2, pooling="men"), ["nearest is 'mean'"], "name"),
    ),
]
