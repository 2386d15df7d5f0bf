from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import torch
from transformers import AutoTokenizer, Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from bridgework.models.experts.downloads import conversion

BYTES = sorted({chr(i) for i in range(33, 127)} | {"Ġ", "Ċ"})
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "ĠĠ", "12"]


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's `LlamaModel.permute`, as its converter applies it to query and key projections."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # so that float16 loses nothing and outputs can be compared bit for bit
        parameter.data = parameter.data.half().float()
    return model


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ Ġ", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    modules = {theirs: ours for ours, theirs in conversion.LLAMA_MODULES.items()}
    for name, parameter in model.model.state_dict(prefix="model.").items():
        array = parameter.numpy()
        if "q_proj" in name or "k_proj" in name:
            array = permute(array, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        parts = name.removesuffix(".weight").split(".")
        ours = f"blk.{parts[2]}.{modules['.'.join(parts[3:])]}" if parts[1] == "layers" else modules[".".join(parts)]
        writer.add_tensor(f"{ours}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def converted_llama(llama, tmp_path_factory):
    wheel, folder = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("llama")
    write_gguf(llama, wheel / "model.gguf")
    conversion.convert_llama(wheel, folder)
    return folder


def test_llama_computes_what_it_did(llama, converted_llama):
    twin, report = LlamaForCausalLM.from_pretrained(converted_llama, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert twin.config.rms_norm_eps == 1e-5
    tokens = torch.arange(3, 27).reshape(2, 12)
    with torch.no_grad():
        assert torch.equal(twin.eval()(tokens).logits, llama(tokens).logits)


def test_llama_tokenizer(converted_llama):
    tokenizer = AutoTokenizer.from_pretrained(converted_llama)
    # digits stay apart although the vocabulary holds "12", and the spaces before them stay together
    assert tokenizer.tokenize("a  12<|im_end|>") == ["a", "ĠĠ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer("a  12 !").input_ids) == "a  12 !"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert (tokenizer.unk_token_id, tokenizer.pad_token_id) == (0, 2)
    assert tokenizer.decode(tokenizer("<|im_start|>a<|im_end|>").input_ids, skip_special_tokens=True) == "a"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert chat == "<|im_start|>a<|im_end|>"


def export_as_onnx_does(model: Dinov2Model) -> onnx.GraphProto:
    """The constants of `model` and the nodes that use them, named and folded as in torch's ONNX export."""
    config, state = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    legacy = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    constants, nodes = {"decoder.final_conv.bias": np.ones(1, np.float32)}, []
    for name, array in state.items():
        for new, old in legacy.items():
            name = name.replace(new, old)
        if name == "embeddings.position_embeddings":
            constants |= {"onnx::Concat_1": array[:, :1], "onnx::Reshape_2": array[:, 1:]}
        elif array.ndim == 2:
            folded = f"onnx::MatMul_{len(constants)}"
            constants[folded] = np.ascontiguousarray(array.T)
            bias = f"backbone.{name.removesuffix('weight')}bias"
            product = f"/{name}/MatMul_output_0"
            nodes.append(onnx.helper.make_node("MatMul", ["hidden", folded], [product]))
            # the exporter writes the bias first for some layers, last for others
            pair = [bias, product] if len(nodes) % 2 else [product, bias]
            nodes.append(onnx.helper.make_node("Add", pair, [f"/{name}/Add_output_0"]))
        else:
            constants[f"backbone.{name}"] = array
    nodes.append(onnx.helper.make_node("Concat", ["backbone.embeddings.cls_token", "patches"], ["tokens"], axis=1))
    nodes.append(onnx.helper.make_node("Reshape", ["onnx::Reshape_2", "shape"], ["grid"]))
    nodes.append(onnx.helper.make_node("Concat", ["onnx::Concat_1", "resized"], ["positions"], axis=1))
    assert config.num_hidden_layers * 6 * 2 + 3 == len(nodes)
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    return onnx.helper.make_graph(nodes, "main_graph", [], [], initializers)


def test_dinov2_computes_what_it_did(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=28,
        patch_size=14,
        use_mask_token=False,
        initializer_range=0.5,
    )
    model = Dinov2Model(config).eval()
    wheel, folder = tmp_path / "wheel", tmp_path / "folder"
    wheel.mkdir()
    folder.mkdir()
    onnx.save(onnx.helper.make_model(export_as_onnx_does(model)), wheel / "model.onnx")
    conversion.convert_dinov2(wheel, folder)
    twin, report = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (twin.config.num_hidden_layers, twin.config.image_size) == (2, 28)
    pixels = torch.rand(1, 3, 42, 42)
    with torch.no_grad():
        assert torch.equal(twin.eval()(pixels).last_hidden_state, model(pixels).last_hidden_state)


def test_missing_converter_package():
    with pytest.raises(ModuleNotFoundError, match=r"needs no_such_tool: pip install 'bridgework\[weights\]'"):
        conversion.tool("no_such_tool")
