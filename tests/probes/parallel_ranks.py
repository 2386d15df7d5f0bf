"""Extract from parallel models in the two processes that torchrun starts: `parallel_ranks.py FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.distributed import DistributedConfig
from transformers.distributed.pipeline_parallel import PipelineIdentityLayer

from bridgework.probes.extraction import jobs
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.probes.toys import letters

WIDTH = 16
SIZES = {"vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}


def words(count: int = 9) -> Stimuli:
    """Texts of four letters, of which one repeats itself: batches of one make two shards of unlike size."""
    return letters(*(f"{chr(108 + number)}{chr(111 - number)}mn" for number in range(count)))


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).eval()


def mixtral() -> Any:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=4, num_experts_per_tok=2)).eval()


class Block(nn.Module):
    """Norm, mixing over the tokens, norm, maps: what a sequence-parallel plan of torch splits."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm, self.mix = nn.LayerNorm(WIDTH), Mix()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.mix(self.first_norm(states))
        return states + self.down(self.up(self.norm(states)).tanh())


class Mix(nn.Module):
    """Each token takes the mean of those up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        means = states.cumsum(1) / torch.arange(1, states.shape[1] + 1)[:, None]
        return self.out(means)


class Splittable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.embed(input_ids)
        for layer in self.layers:
            states = layer(states)
        return self.norm(states)


def plain() -> Any:
    torch.manual_seed(0)
    return Splittable().eval()


def subject(model: Any, name: str = "model") -> AnyModel:
    def inputs(stimuli: Sequence[Any], modalities: tuple[str, ...], task: str, timestep: float | None) -> dict:
        ids = torch.tensor([[ord(letter) % 64 for letter in s.text] for s in stimuli])
        return {"input_ids": ids} if isinstance(model, Splittable) else {"input_ids": ids, "use_cache": False}

    return AnyModel(model, inputs, modalities=("text",), name=name)


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def library_plan(whole: Any, folder: Path, **sizes: Any) -> Any:
    """A model that transformers distributes while it opens it."""
    if dist.get_rank() == 0 and not folder.exists():
        whole.save_pretrained(folder)
    dist.barrier()
    return type(whole).from_pretrained(folder, distributed_config=DistributedConfig(**sizes)).eval()


def own_plan(model: Any) -> Any:
    """Torch's own styles, the MLP alone."""
    for layer in model.model.layers:
        plan = {
            "mlp.gate_proj": ColwiseParallel(),
            "mlp.up_proj": ColwiseParallel(),
            "mlp.down_proj": RowwiseParallel(),
        }
        parallelize_module(layer, mesh(), plan)
    return model


def sharded(model: Any, hybrid: bool = False) -> Any:
    over = init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "parts")) if hybrid else mesh()
    for layer in model.model.layers:
        fully_shard(layer, mesh=over)
    return fully_shard(model, mesh=over)


def sequence_parallel(model: Any, local: bool, between: Any = None) -> Any:
    """The plan of torch's tutorial: tokens are split between the maps, as local tensors or DTensors."""
    between = between or Shard(1)
    over = mesh()
    embed = RowwiseParallel(input_layouts=Replicate(), output_layouts=between, use_local_output=local)
    parallelize_module(model, over, {"embed": embed, "norm": SequenceParallel()})
    for layer in model.layers:
        plan = {
            "first_norm": SequenceParallel(use_local_output=local),
            "mix": PrepareModuleInput(input_layouts=between, desired_input_layouts=Replicate(), use_local_output=True),
            "mix.out": RowwiseParallel(input_layouts=Replicate(), output_layouts=between, use_local_output=local),
            "norm": SequenceParallel(use_local_output=local),
            "up": ColwiseParallel(input_layouts=between),
            "down": RowwiseParallel(output_layouts=between, use_local_output=local),
        }
        parallelize_module(layer, over, plan)
    return model


def by_width(model: Any) -> Any:
    """Blocks that pass on half of the width each, as plain tensors."""
    half = slice(dist.get_rank() * WIDTH // 2, (dist.get_rank() + 1) * WIDTH // 2)
    model.layers[1].register_forward_hook(lambda module, args, output: output[..., half])
    model.layers[2].forward = lambda states: torch.cat([states, states], -1)
    weight = distribute_tensor(model.embed.weight.detach(), mesh(), [Replicate()])
    model.embed.weight = nn.Parameter(weight)
    model.embed.forward = lambda ids: nn.functional.embedding(ids, weight.to_local())
    return model


def stage(model: Any) -> Any:
    model.model.layers[1 + dist.get_rank()] = PipelineIdentityLayer()
    return model


def other_seed(model: Any) -> Any:
    nn.init.constant_(model.model.norm.weight, 1 + dist.get_rank())
    return model


def cases(folder: Path) -> dict[str, Callable[[], Any]]:
    return {
        "tensor parallel, the library's plan": lambda: library_plan(llama(), folder / "llama", tp_size=2),
        "experts dealt out": lambda: library_plan(mixtral(), folder / "mixtral", tp_size=2, ep_size=2),
        "tensor parallel, torch's styles": lambda: own_plan(llama()),
        "FSDP2": lambda: sharded(llama()),
        "FSDP2, copies of parts": lambda: sharded(llama(), hybrid=True),
        "DistributedDataParallel": lambda: nn.parallel.DistributedDataParallel(llama()),
        "sequence parallel, DTensors": lambda: sequence_parallel(plain(), local=False),
        "sequence parallel, local tensors": lambda: sequence_parallel(plain(), local=True),
        "width": lambda: by_width(plain()),
        "a stage of a pipeline": lambda: stage(llama()),
        "other weights": lambda: other_seed(llama()),
    }


def failing(folder: Path) -> None:
    """The first process cannot write its second shard, and the other waits for it within the pass."""
    real, calls = jobs.write_numbered_shard, []

    def write(*args: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise OSError("no space left")
        real(*args)

    jobs.write_numbered_shard = write  # type: ignore[assignment]
    try:
        extract(subject(own_plan(llama())), words(), batch_size=1, store=folder)
    finally:
        jobs.write_numbered_shard = real


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    errors: dict[str, str] = {}
    runs: dict[str, Callable[[], Any]] = {
        name: lambda name=name, build=build: extract(subject(build()), words(), batch_size=1, store=folder / name)
        for name, build in cases(folder).items()
    }
    runs["a full disk"] = lambda: failing(folder / "full")
    runs["without a store"] = lambda: extract(subject(sharded(llama())), words(3), batch_size=2).save(
        folder / f"no store, rank {dist.get_rank()}"
    )
    for name, run in runs.items():
        try:
            run()
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    (folder / f"errors-{dist.get_rank()}.json").write_text(json.dumps(errors))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
