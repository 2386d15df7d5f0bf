"""Pairs of tiny models that meet, and the plainest gated bridge between them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.models.fusion.lockstep import Meeting, lockstep
from bridgework.models.towers.finding import find_tower
from bridgework.models.towers.tower import Tower
from bridgework.models.towers.visiting import measure, visiting
from bridgework.probes.hooks.attention_calls import AttentionCall

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Named(NamedTuple):
    """A tower of the zoo: the model's name, its stack and stream, where they are not found by default."""

    model: str
    stack: str | None = None
    stream: str | None = None


LLAVA = Named("LlavaForConditionalGeneration")
QWEN_VL = Named("Qwen2_5_VLForConditionalGeneration")
LM = Named("Qwen2Model (text LM)")
SD3 = Named("SD3Transformer2DModel", stream="image")
FLUX = Named("FluxTransformer2DModel", stream="image")
PIXART = Named("PixArtTransformer2DModel")
WAN = Named("WanTransformer3DModel")
UNET = Named("UNet2DConditionModel", "mid_block")

PAIRS = [
    (LLAVA, SD3),
    (LLAVA, Named("SD3Transformer2DModel", stream="both")),
    (QWEN_VL, FLUX),
    (QWEN_VL, PIXART),
    (LLAVA, WAN),
    (LM, UNET),
    (LM, SD3),
    (Named("Qwen3ForCausalLM (text LM)"), Named("Flux2Transformer2DModel", "single_transformer_blocks", "image")),
    (Named("T5EncoderModel (text enc)"), Named("CogVideoXTransformer3DModel", stream="image")),
    (Named("SmolVLMForConditionalGeneration"), Named("Lumina2Transformer2DModel", stream="image")),
    (Named("Gemma3ForConditionalGeneration"), Named("QwenImageTransformer2DModel", stream="image")),
    (Named("ChameleonForConditionalGeneration", stream="image"), Named("HunyuanDiT2DModel")),
    (Named("JanusForConditionalGeneration"), Named("LTXVideoTransformer3DModel")),
    (Named("Blip2ForConditionalGeneration"), Named("DiTTransformer2DModel")),
    (Named("Dinov2Model"), Named("Transformer2DModel")),
    (Named("DINOv3ViTModel"), Named("FluxTransformer2DModel", "single_transformer_blocks", "text")),
]
# Towers that cannot be visited inside attention, or not at all of their blocks.
OUTSIDE = [
    (Named("Qwen2_5_VLForConditionalGeneration", "model.visual.blocks"), SD3),  # samples packed
    (Named("Qwen3_5ForConditionalGeneration"), Named("SanaTransformer2DModel")),  # linear attention
    (Named("FlavaModel (uni + fusion encoder)"), Named("UNet2DConditionModel", "up_blocks")),  # eager, and maps
    (Named("LlavaOnevisionForConditionalGeneration", "model.vision_tower.encoder.layers"), WAN),  # crops
    (LM, Named("AutoencoderKL")),
]


def label(pair: tuple[Named, Named]) -> str:
    """A test's name."""
    return " x ".join(str(each.model.split()[0]) + (f" {each.stream}" if each.stream else "") for each in pair)


FOUND: dict[Named, Tower] = {}


class Runnable(NamedTuple):
    """A tower and its pass."""

    tower: Tower
    run: Callable[[], Any]


def opened(named: Named, seed: int = 0) -> Runnable:
    """The tower of a fresh tiny model, frozen, and its pass of two samples."""
    torch.manual_seed(seed)
    tiny = ZOO[named.model][1]()
    model = tiny.model.eval().requires_grad_(False)
    if named not in FOUND:  # once for all seeds: only the weights differ
        FOUND[named] = find_tower(model, tiny.inputs, stack=named.stack, stream=named.stream)
    tower = replace(FOUND[named], model=model)
    return Runnable(tower, lambda: model(**tiny.inputs))


SHARED: dict[tuple[Named, int], Runnable] = {}


def shared(named: Named, seed: int = 0) -> Runnable:
    """As `opened`, but one model for all tests that leave its weights, modes and precision as they are."""
    if (named, seed) not in SHARED:
        SHARED[named, seed] = opened(named, seed)
    torch.manual_seed(seed)
    SHARED[named, seed].tower.model.requires_grad_(False).zero_grad()
    return SHARED[named, seed]


def tensors(output: Any) -> Tensor:
    """Everything that a model returned, in one row."""
    if isinstance(output, Tensor):
        return output.flatten().float() if output.is_floating_point() else output.new_zeros(0).float()
    values = output.values() if hasattr(output, "values") else output
    found = [tensors(value) for value in values if isinstance(value, Tensor | tuple | list | dict)]
    return torch.cat(found) if found else torch.zeros(0)


class Bridge(nn.Module):
    """own + gate * (what the other side's tokens say on average, mapped into this side's width)."""

    def __init__(self, width: int, other: int, gate: float) -> None:
        super().__init__()
        self.map = nn.Linear(other, width)
        self.gate = nn.Parameter(torch.tensor(gate))

    def forward(self, own: Tensor | AttentionCall, other: Tensor) -> Tensor:
        """own (batch, token, dim) or Attended; other (batch, dim)."""
        said = self.map(other)[:, None]  # (batch, 1, width)
        if isinstance(own, Tensor):
            return own + self.gate * said
        heads = said.unflatten(2, (own.own.shape[1], own.own.shape[3])).transpose(1, 2)
        mine = own.own[:, :, own.reads]
        result = own.own.clone()
        result[:, :, own.reads] = mine + self.gate * (heads - mine)
        return result


def said(own: Tensor | AttentionCall) -> Tensor:
    """What a side hands over, (batch, dim): its tokens' mean."""
    if isinstance(own, Tensor):
        return own.mean(1)
    return own.own[:, :, own.reads].mean(2).flatten(1)


def inside_of(tower: Tower) -> list[int]:
    """The blocks that can be visited inside."""
    return [number for number, attention in enumerate(tower.attention) if not isinstance(attention, str)]


class Joined(nn.Module):
    """Two towers that meet at two pairs of blocks: the first they have and the last but one, of unequal depth.

    `fresh` is for tests that change the models.
    """

    def __init__(
        self, named: tuple[Named, Named], inside: bool = False, gate: float = 0.0, fresh: bool = False
    ) -> None:
        super().__init__()
        self.sides = [(opened if fresh else shared)(name, seed) for seed, name in enumerate(named)]
        self.inside = inside
        self.blocks = [
            [there[0], there[max(len(there) - 2, 0)]] if len(there) > 1 else there
            for there in (
                inside_of(side.tower) if inside else list(range(len(side.tower.blocks))) for side in self.sides
            )
        ]
        meetings = min(len(blocks) for blocks in self.blocks)
        self.blocks = [sorted(set(blocks))[:meetings] for blocks in self.blocks]
        meetings = min(len(blocks) for blocks in self.blocks)
        self.blocks = [blocks[:meetings] for blocks in self.blocks]
        widths = [
            [shape.width for shape in measure(side.tower, side.run, blocks, inside).values()]
            for side, blocks in zip(self.sides, self.blocks, strict=True)
        ]
        torch.manual_seed(5)
        self.bridges = nn.ModuleList(
            nn.ModuleList(Bridge(widths[side][at], widths[1 - side][at], gate) for at in range(meetings))
            for side in (0, 1)
        )
        self.visited = 0

    @property
    def models(self) -> list[nn.Module]:
        return [side.tower.model for side in self.sides]

    def bare(self) -> tuple[Any, Any]:
        return self.sides[0].run(), self.sides[1].run()

    def one_way(self) -> Any:
        """The second tower's result, reading what the first said in a pass of its own."""
        kept: dict[int, Tensor] = {}

        def keep(at: int) -> Callable[[Any], None]:
            def visit(own: Any) -> None:
                kept[at] = said(own)

            return visit

        first, second = self.sides
        with visiting(first.tower, {block: keep(at) for at, block in enumerate(self.blocks[0])}, self.inside):
            first.run()

        def join(at: int) -> Callable[[Any], Tensor]:
            def visit(own: Any) -> Tensor:
                self.visited += 1
                return self.bridges[1][at](own, kept[at])  # type: ignore[index]

            return visit

        with visiting(second.tower, {block: join(at) for at, block in enumerate(self.blocks[1])}, self.inside):
            return second.run()

    @contextmanager
    def both_ways(self, meeting: Meeting):
        def join(side: int, at: int) -> Callable[[Any], Tensor]:
            def visit(own: Any) -> Tensor:
                self.visited += 1
                other = meeting.exchange(side, at, said(own))
                return self.bridges[side][at](own, other)  # type: ignore[index]

            return visit

        with ExitStack() as stack:
            for side, each in enumerate(self.sides):
                visits = {block: join(side, at) for at, block in enumerate(self.blocks[side])}
                stack.enter_context(visiting(each.tower, visits, self.inside))
            yield

    def together(
        self, first: Callable[[], Any] | None = None, second: Callable[[], Any] | None = None
    ) -> tuple[Any, Any]:
        """Both results, either tower reading the other."""
        meeting = Meeting()
        with self.both_ways(meeting):
            return lockstep(meeting, first or self.sides[0].run, second or self.sides[1].run)


def traces(*models: nn.Module) -> tuple[int, list[str]]:
    """Function modes entered, and what this project hangs on modules: (0, []) when nothing was left behind."""
    found = []
    for module in (module for model in models for module in model.modules()):
        hooks = [hook for kind in HOOKS for hook in getattr(module, kind).values()]
        puts = [vars(module).get(name) for name in ("_gradient_checkpointing_func", "_compiled_call_impl", "forward")]
        found += [
            repr(each) for each in (*hooks, *puts) if str(getattr(each, "__module__", "")).startswith("bridgework")
        ]
    return torch._C._len_torch_function_stack(), found
