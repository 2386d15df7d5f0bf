"""Checkpoints that must not be opened, or not as they are: code, pickles, parts missing."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bridgework.models.experts.opening import open_expert
from bridgework.models.experts.weight_files.loading import settings, weights
from bridgework.tests.models.tiny_folders import TEXT, tokenizer, write

CODE = "raise SystemExit('code of a checkpoint was run')\n"


@pytest.fixture
def folder(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_sentence(error: pytest.ExceptionInfo[ValueError]) -> None:
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mine", "architectures": ["MineForCausalLM"]},
        {"architectures": ["MineForCausalLM"]},  # a family of transformers', and a model that is not
    ],
)
def test_code_of_a_checkpoint_is_never_run(folder, changes, twin):
    (folder / "mine.py").write_text(CODE)
    code = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    edit(folder / "config.json", auto_map=code, **changes)
    message = r"brings its own code \(auto_map\), which is never run here: .* wrap it in a Subject"
    with pytest.raises(ValueError, match=message) as error:
        open_expert(folder, random_weights=twin)
    one_sentence(error)


def test_code_beside_an_architecture_of_transformers_is_left_alone(folder):
    """Many checkpoints still carry the code from before transformers had them."""
    (folder / "mine.py").write_text(CODE)
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "mine.MineForCausalLM"})
    assert type(open_expert(folder).model) is LlamaForCausalLM


def test_code_of_a_tokenizer_is_never_run(folder):
    (folder / "mine.py").write_text(CODE)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]}, tokenizer_class="Mine")
    try:
        assert open_expert(folder).tokenizer("a ring").input_ids  # transformers' own class in its place
    except ValueError as error:
        assert "brings its own code" in str(error)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickles_are_refused(folder, file):
    (folder / "model.safetensors").unlink()
    torch.save(LlamaForCausalLM(LlamaConfig(**TEXT)).state_dict(), folder / file)
    message = rf"are pickles alone \({file}\) and nothing is unpickled here: expected safetensors"
    with pytest.raises(ValueError, match=message) as error:
        open_expert(folder)
    one_sentence(error)


def test_pickles_on_the_hub_are_refused(monkeypatch):
    """Neither read, nor handed to the Hub's service that would unpickle them."""

    def hub(source: str, **options: object) -> None:
        assert options["use_safetensors"] is True
        assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"
        raise OSError(
            f"{source} does not appear to have a file named model.safetensors or model.safetensors.index.json "
            "and thus cannot be loaded with `safetensors`. Please do not set `use_safetensors=True`."
        )

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", hub)
    with pytest.raises(
        ValueError, match=r"are pickles alone \(no model.safetensors\) and nothing is unpickled"
    ) as error:
        weights(LlamaForCausalLM, "somebody/something")
    one_sentence(error)


def test_a_pickle_beside_safetensors_is_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert open_expert(folder).blocks


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", "config.json"])
def test_an_incomplete_folder(folder, lost):
    if lost == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    (folder / lost).unlink()
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"the (weights|tokenizer) of|neither a config.json"
    ) as error:
        open_expert(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "left"),
    [
        ("LlamaForCausalLM", {"num_hidden_layers": 3}, r"model\.layers\.3\."),
        ("ViTModel", {"num_hidden_layers": 2}, r"layers?\.2\."),
        ("GPT2LMHeadModel", {"n_layer": 2}, r"h\.2\."),
        ("BertModel", {"num_hidden_layers": 3}, r"layer\.3\."),
    ],
)
def test_weights_of_a_deeper_model(tmp_path, architecture, changes, left):
    write(architecture, tmp_path)
    assert open_expert(tmp_path).blocks
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=rf"hold more blocks than its config.json says \(such as '.*{left}") as error:
        open_expert(tmp_path)
    one_sentence(error)
    assert open_expert(tmp_path, random_weights=True).blocks  # which reads no weights


def test_an_image_processor_that_is_missing(tmp_path):
    write("ViTModel", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"the image processor of expert .* cannot be read") as error:
        open_expert(tmp_path)
    one_sentence(error)


def test_weights_in_shards(folder, tmp_path_factory):
    """Large checkpoints come in several files and an index."""
    whole, split = open_expert(folder), tmp_path_factory.mktemp("split")
    whole.model.save_pretrained(split, max_shard_size="20KB")
    tokenizer().save_pretrained(split)
    assert len(list(split.glob("*.safetensors"))) > 1
    for key, value in open_expert(split).model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key])
    lost = sorted(split.glob("*.safetensors"))[1]
    shutil.move(lost, lost.with_suffix(".gone"))
    with pytest.raises(ValueError, match=r"the weights of expert .* cannot be read") as error:
        open_expert(split)
    one_sentence(error)


def test_settings_name_an_unknown_family(folder):
    edit(folder / "config.json", model_type="mine", architectures=[])
    with pytest.raises(ValueError, match=r"the config of expert .* cannot be read") as error:
        settings(str(folder))
    one_sentence(error)
