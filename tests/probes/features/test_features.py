"""Features: what they refuse to be, one layer, one timestep."""

from __future__ import annotations

import pytest
import torch

from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures


def layer_features(modality: str = "image", **changes) -> LayerFeatures:
    shape = (2, 3, 4, 5) if changes.get("timesteps") else (3, 4, 5)
    given = {
        "values": torch.arange(float(torch.Size(shape).numel())).reshape(shape),
        "layers": ("embeddings", "0", "1"),
        "depths": (0.0, 0.5, 1.0),
        "modality": modality,
        "subject": "expert",
        "task": "generation",
        "pass_": "separate",
        "pooling": "mean",
        "timesteps": (),
        "samples": ("a", "b", "c", "d"),
    }
    return LayerFeatures(**(given | changes))


def test_at_selects_a_timestep():
    swept = layer_features(timesteps=(0.2, 0.8))
    one = swept.at(0.8)
    assert torch.equal(one.values, swept.values[1])
    assert one.timesteps == (0.8,)
    assert one.at(0.8).values.ndim == 3
    with pytest.raises(ValueError, match=r"no image features at timestep 0.5: swept are 0.2, 0.8"):
        swept.at(0.5)
    with pytest.raises(ValueError, match="swept are none"):
        layer_features().at(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(3, 4)}, "layer, sample, dim"),
        (
            {"values": torch.zeros(3, 4, 5, dtype=torch.float64)},
            "float32, float16 or bfloat16 tensor, got torch.float64",
        ),
        ({"values": [[[0.0]]]}, "got list"),
        ({"pooling": "median"}, "unknown pooling 'median'"),
        ({"pooling": "grid:2"}, "layer, sample, row, column, dim"),
        ({"pooling": "none"}, "layer, sample, token, dim"),
        ({"widths": (5, 5)}, "2 widths for 3"),
        ({"widths": (5, 6, 5)}, "6 wide"),
        ({"layers": ("0", "1")}, "2 layers for 3"),
        ({"layers": ("0", "0", "1")}, "twice"),
        ({"samples": ("a",)}, "1 samples for 4"),
        ({"depths": (0.0,)}, "1 depths for 3"),
        ({"modality": "sound"}, "unknown modality 'sound': expected one of image, text"),
        ({"task": "chess"}, "unknown task"),
        ({"timesteps": (0.2, 0.5, 0.8)}, "3 timesteps for 2"),
    ],
)
def test_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        layer_features(**changes)


def test_modality_must_match_its_key():
    with pytest.raises(ValueError, match="name each by its modality"):
        Features({"text": layer_features("image")})
    with pytest.raises(KeyError, match="there are image"):
        Features({"image": layer_features()})["text"]


def test_one_layer_in_its_own_width():
    values = torch.arange(60.0).reshape(3, 4, 5)
    uneven = layer_features(values=values, widths=(2, 5, 3))
    assert torch.equal(uneven.layer("embeddings"), values[0, :, :2])
    assert torch.equal(uneven.layer("1"), values[2, :, :3])
    assert torch.equal(layer_features(values=values).layer("1"), values[2])
    assert torch.equal(layer_features(values=values).layer(1), values[2])  # type: ignore[arg-type]
    swept = layer_features(timesteps=(0.2, 0.8))
    assert torch.equal(swept.layer("0"), swept.values[:, 1])
    with pytest.raises(ValueError, match="no layer '7' of 'expert': there are embeddings, 0, 1"):
        uneven.layer("7")


def test_one_layer_with_its_labels():
    values = torch.arange(60.0).reshape(3, 4, 5)
    uneven = layer_features(values=values, widths=(2, 5, 3), digests={"a": "1 2"})
    for asked in ("0", 0, -2, 0.5, 0.6):
        one = uneven.at_layer(asked)
        assert (one.layers, one.depths, one.samples, one.digests) == (("0",), (0.5,), uneven.samples, {"a": "1 2"})
        assert torch.equal(one.values, values[1:2])
    last = uneven.at_layer("last")
    assert (last.layers, tuple(last.values.shape)) == (("1",), (1, 4, 3))
    assert torch.equal(last.layer("1"), uneven.layer("1"))
    assert layer_features(timesteps=(0.2, 0.8)).at_layer(0).values.shape == (2, 1, 4, 5)
    with pytest.raises(ValueError, match="no layer '7' of 'expert': there are embeddings, 0, 1"):
        uneven.at_layer(7)
    with pytest.raises(ValueError, match="no layer '-4'"):
        uneven.at_layer(-4)
    with pytest.raises(ValueError, match="a relative depth lies in 0 to 1, got 7: a layer's number is a whole number"):
        uneven.at_layer(7.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_labels(dtype):
    part = layer_features(values=torch.zeros(3, 4, 2, 2, 5, dtype=dtype), pooling="grid:2 + special + cleaned")
    assert part.values.dtype == dtype
    assert not part.swept
    assert layer_features(values=torch.zeros(2, 3, 4, 7, 5), pooling="none", timesteps=(0.2, 0.8)).swept
