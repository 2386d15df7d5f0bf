"""Features: what they refuse to be, and a file that is deterministic, whole and read back as it was."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from bridgework.probes.features import METADATA_KEY, Features, LayerFeatures, write_whole


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
    ("changes", "told"),
    [
        ({"values": torch.zeros(3, 4)}, "layer, sample, dim"),
        ({"values": torch.zeros(3, 4, 5, dtype=torch.float16)}, "float32"),
        ({"layers": ("0", "1")}, "2 layers for 3"),
        ({"layers": ("0", "0", "1")}, "twice"),
        ({"samples": ("a",)}, "1 samples for 4"),
        ({"depths": (0.0,)}, "1 depths for 3"),
        ({"modality": "sound"}, "unknown modality 'sound': expected one of image, text"),
        ({"task": "chess"}, "unknown task"),
        ({"timesteps": (0.2, 0.5, 0.8)}, "3 timesteps for 2"),
    ],
)
def test_refuses_what_does_not_fit(changes, told):
    with pytest.raises(ValueError, match=told):
        layer_features(**changes)


def test_file_returns_everything_and_is_deterministic(tmp_path):
    made = Features(
        {"text": layer_features("text"), "image": layer_features(timesteps=(0.2, 0.8))}, {"stimuli": "noto", "batch": 8}
    )
    for name in ("one", "two"):
        made.save(tmp_path / "new" / name)
    assert (tmp_path / "new" / "one").read_bytes() == (tmp_path / "new" / "two").read_bytes()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["one", "two"]
    read = Features.load(tmp_path / "new" / "one")
    assert dict(read.provenance) == made.provenance
    assert set(read) == {"image", "text"}
    for modality, part in made.items():
        assert torch.equal(read[modality].values, part.values)
        for name in ("layers", "depths", "modality", "subject", "task", "pass_", "pooling", "timesteps", "samples"):
            assert getattr(read[modality], name) == getattr(part, name)
    with safe_open(tmp_path / "new" / "one", framework="pt") as file:
        assert list(file.metadata()) == [METADATA_KEY]
        assert json.loads(file.metadata()[METADATA_KEY])["provenance"] == made.provenance


def test_unreadable_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="extract the features first"):
        Features.load(tmp_path / "none")
    Features({"image": layer_features()}).save(tmp_path / "cut")
    whole = (tmp_path / "cut").read_bytes()
    for broken in (whole[:-20], whole[:30], b"", b"no features"):
        (tmp_path / "cut").write_bytes(broken)
        with pytest.raises(ValueError, match="not a whole features file"):
            Features.load(tmp_path / "cut")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "kept").write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "kept", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_modality_must_match_its_key():
    with pytest.raises(ValueError, match="say that their modality"):
        Features({"text": layer_features("image")})
    with pytest.raises(KeyError, match="there are image"):
        Features({"image": layer_features()})["text"]
