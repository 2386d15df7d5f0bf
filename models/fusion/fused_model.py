"""A fused model: two unmodified experts, joined at the layers of a bridge plan.

Generation reads understanding in two passes: the understanding tower runs once on the caption, and what it hands over
at the bridged blocks is kept; the generation tower then runs, over all sampling steps, and reads it. Noise is seen by
nobody else, so that a plan both ways draws in the same way; what it adds is that understanding reads a clean image,
both towers in lockstep. No forward is rewritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ...probes.files import write_atomically
from ...probes.hooks.block_outputs import named_inputs
from ...probes.hooks.block_stacks import find_stacks
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.stimuli.stimulus_set import Stimulus
from ..generation.flow import denoising_loss, targets_and_noise
from ..generation.sampling import Generator, as_generator
from ..scenes.dialogues import IGNORE, answer_loss, split_labels
from ..towers.attention_masks import one_image, text_after
from ..towers.finding import find_tower
from ..towers.tower import Tower
from ..towers.visiting import visiting
from .semantic_tokens import SemanticTokens, vision_features
from .trained_parts import adapt
from .two_towers import Fusion, UnderstandingStates

__all__ = ["FusedModel", "Fusion", "UnderstandingStates"]

WEIGHTS = "bridges.safetensors"
SEMANTIC_WEIGHT = 0.5  # of the semantic loss, beside the velocity loss
_BLANK = Image.new("RGB", (2, 2))


class FusedModel(Fusion, Generator):
    """An understanding and a generation expert, joined at the pairs of `plan`; only the bridges are trained.

    Text reaches the generator through the bridges alone: its own text stream holds the null caption always.

    >>> fused = FusedModel(open_expert("scenes-vlm"), open_expert("scenes-dit"), plan)
    >>> text = fused.condition(["a red circle"])                  # once
    >>> fused.predict(noisy, text, time)                          # at every sampling step
    >>> fused.adapt("lora")                                       # train more than the bridges

    Parameters
    ----------
    understanding : an expert that reads text: a language model or a vision-language model.
    generation : a `DitExpert`, or another with its `encode`, `predict` and `size`.
    plan : its depths must be those of the two experts; `plan.stream` names the generator's tokens that read the text.

    Raises ValueError for experts that do not fit the plan, TypeError for those that cannot be these towers.
    """

    null_text: Tensor
    experts: tuple[Any, Any]

    def __init__(self, understanding: Any, generation: Any, plan: BridgePlan) -> None:
        if not callable(getattr(generation, "predict", None)) or "text" not in getattr(understanding, "modalities", ()):
            raise TypeError(
                "expected an expert that reads text and one that draws (a DitExpert), in this order, "
                f"got {type(understanding).__name__} and {type(generation).__name__}"
            )
        run_text = _text_pass(understanding, ["a", "a"])[0]

        def run_image() -> Tensor:
            with torch.no_grad():
                noisy = torch.zeros(2, *generation.size, device=generation.model.device)
                return generation.predict(noisy, generation.encode(["", ""]), noisy.new_ones(2))

        towers = (
            _tower(understanding, run_text, None),
            _tower(generation, run_image, plan.stream),
        )
        super().__init__(*towers, plan, (run_text, run_image))
        self.experts = (understanding, generation)
        self.trained_experts, self.rank = "bridges", 0
        self.steps = 0  # of training, which evidence that rests on this model is charged with
        encoder = getattr(generation, "text_encoder", None)
        if isinstance(encoder, nn.Module):
            self.text_encoder = encoder.requires_grad_(False)
        with torch.no_grad():
            self.register_buffer("null_text", generation.encode([""]).clone(), persistent=False)
        self.semantic = self._semantic_tokens(run_image) if plan.semantic_tokens else None

    def _semantic_tokens(self, run_image: Callable[[], Tensor]) -> SemanticTokens:
        understanding, generation = self.experts
        images = torch.zeros(1, *self.pixels)
        states: list[Tensor] = []
        tower = _tower(generation, run_image, "text")
        ends = [number for number, places in enumerate(tower.places) if "text" in places]
        if not ends:
            raise ValueError(f"{generation.name} has no text stream for semantic tokens: plan without semantic_tokens")
        self.text_end = tower, ends[-1]
        with torch.no_grad(), self._at_text_end(states.append):
            run_image()
        target = vision_features(understanding, images)
        return SemanticTokens(
            self.plan.semantic_tokens, self.null_text.shape[-1], states[0].shape[-1], target.shape[-1]
        )

    def _at_text_end(self, keep: Callable[[Tensor], None]) -> AbstractContextManager[None]:
        """Hand the generator's text states (batch, token, dim) to `keep` where its text stream ends."""
        tower, last = self.text_end
        return visiting(tower, {last: keep})

    @property
    def name(self) -> str:
        return f"{self.experts[0].name} + {self.experts[1].name}, {self.plan.layout}"

    @property
    def device(self) -> torch.device:
        return self.generation.device

    @property
    def size(self) -> tuple[int, int, int]:
        """Of what is drawn: (channel, row, column)."""
        return self.experts[1].size

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Of the images that it is trained on, which are what is drawn or what latents stand for."""
        return as_generator(self.experts[1]).pixels

    def latents(self, images: Tensor) -> Tensor:
        """What is drawn of images (batch, channel, row, column) in -1..1: their latents if the generator has any."""
        return as_generator(self.experts[1]).latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        """The images of what was drawn."""
        return as_generator(self.experts[1]).decode(latents)

    def adapt(self, trained: str, rank: int = 8) -> FusedModel:
        """Train more than the bridges: "lora" adapters of this rank in both towers' blocks, or "all" of both towers.

        The experts that the model was made of change with it. Raises ValueError for another word, or a second time.
        """
        if self.trained_experts != "bridges":
            raise ValueError(f"this model trains {self.trained_experts!r} already: make a new one of fresh experts")
        for tower in self.towers:
            adapt(tower.model, tower.blocks, trained, rank)
        self.trained_experts, self.rank = trained, rank
        return self

    def trained(self) -> nn.ModuleDict:
        """What is trained and saved: the bridges, semantic tokens, and the towers if they are adapted."""
        parts: dict[str, nn.Module] = {"bridges": self.bridges}
        if self.semantic is not None:
            parts["semantic"] = self.semantic
        if self.trained_experts != "bridges":
            parts |= {"understanding": self.understanding, "generation": self.generation}
        return nn.ModuleDict(parts)

    def train(self, mode: bool = True) -> FusedModel:
        """Frozen experts stay as they were when evaluated; blocks that recompute their states in backward are told."""
        super().train(mode)
        for tower in (self.understanding, self.generation, getattr(self, "text_encoder", self.generation)):
            if self.trained_experts == "bridges":
                tower.eval()
            for module in tower.modules():
                if getattr(module, "gradient_checkpointing", False):
                    module.training = mode  # transformers' blocks look at their own flag, and at nothing inside
        return self

    def condition(self, captions: Sequence[str]) -> UnderstandingStates:
        """Run the understanding tower once on the captions and keep what the bridges read."""
        run, mask = _text_pass(self.experts[0], captions)
        learns = self.trained_experts != "bridges" or (self.plan.both_ways and not self.inside)
        return self.read(run if learns else torch.no_grad()(run), mask.to(self.device))

    def predict(self, noisy: Tensor, text: UnderstandingStates, time: Tensor) -> Tensor:
        """The clean image (batch, channel, row, column) that the bridged generator sees in `noisy` at `time`."""
        with self.reading(text):
            return self.experts[1].predict(noisy, self._own_text(len(noisy)), time)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The training loss of a batch of image, caption, time and noise (small.dit_batch, batches.stimuli_batch).

        The velocity loss of the bridged generator; with semantic tokens, half of theirs on top; both ways, the negative
        log-likelihood (nats a token) of the captions, read through the bridges off the clean image; where the
        understanding expert is trained and the batch has "questions" (small.vlm_batch), that of their answers.
        """
        image, time, noise = targets_and_noise(self, batch)
        states: list[Tensor] = []
        with nullcontext() if self.semantic is None else self._at_text_end(states.append):
            loss = denoising_loss(self, batch["caption"], image, time, noise)
        if self.semantic is not None:
            seen = vision_features(self.experts[0], batch["image"])
            loss = loss + SEMANTIC_WEIGHT * self.semantic.loss(states[0], seen)
        if self.plan.both_ways:
            loss = loss + self.caption_loss(batch["caption"], image)
        if self.trained_experts != "bridges" and "questions" in batch:
            inputs, labels = split_labels(batch["questions"], self.device)
            loss = loss + answer_loss(self.understanding(**inputs).logits.float(), labels)
        return loss

    def caption_loss(self, captions: Sequence[str], image: Tensor) -> Tensor:
        """Nats a token of captions whose image the understanding tower reads off the generation tower alone.

        Both towers run in lockstep: the generation tower on the clean image (batch, channel, row, column), the
        understanding tower on the caption after it. Raises ValueError for a plan that runs one way.
        """
        run, mask = _text_pass(self.experts[0], captions)
        mask = mask.to(self.device)
        expert, time = self.experts[1], image.new_zeros(len(image))
        places = text_after(mask, 1), one_image(len(image), 0, False, self.device)
        ids: list[Tensor] = []
        taken = self.understanding.register_forward_pre_hook(
            lambda module, args, kwargs: ids.append(named_inputs(module, args, kwargs)["input_ids"]), with_kwargs=True
        )
        try:
            said, _ = self.together(run, lambda: expert.predict(image, self._own_text(len(image)), time), places)
        finally:
            taken.remove()
        labels = ids[0].masked_fill(~mask, IGNORE)[:, 1:]
        logits = said.logits[:, :-1].transpose(1, 2).float()
        lost = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return lost / (labels != IGNORE).sum().clamp(min=1)  # all captions of a batch may be left out

    def save(self, folder: str | Path) -> None:
        """Write what was trained and the plan, not the experts."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self._learnt().items()}
        told = {"trained": json.dumps([self.trained_experts, self.rank, self.steps])}
        write_atomically(folder / WEIGHTS, lambda path: save_file(state, path, metadata=told))
        self.plan.save(folder / "plan.json")

    @classmethod
    def load(cls, folder: str | Path, understanding: Any, generation: Any) -> FusedModel:
        """Open what `save` wrote, on the same two experts. Raises FileNotFoundError or ValueError, naming the file."""
        fused = cls(understanding, generation, BridgePlan.load(Path(folder) / "plan.json"))
        path = Path(folder) / WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(
                f"no bridges in {os.fspath(folder)!r}: expected {path.name} beside plan.json, as FusedModel.save writes"
            )
        try:
            with safe_open(path, "pt") as file:
                trained, rank, fused.steps = json.loads((file.metadata() or {})["trained"])
                state = {name: file.get_tensor(name) for name in file.keys()}
            if trained != "bridges":
                fused.adapt(trained, rank)
            learnt = fused._learnt()
            other = [name for name in state.keys() & learnt.keys() if state[name].shape != learnt[name].shape]
            if told := [*(learnt.keys() ^ state.keys()), *other]:
                raise ValueError(f"{sorted(told)[0]} is missing, left over or of another shape")
            fused.trained().load_state_dict(state, strict=False)
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} does not hold the bridges of its plan: train again ({str(error).splitlines()[0]})"
            ) from None
        return fused

    def _learnt(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.trained().named_parameters() if p.requires_grad}

    def _own_text(self, count: int) -> Tensor:
        """The generator's own text input (batch, token, dim): the null caption, and semantic tokens."""
        null = self.null_text.expand(count, -1, -1)
        return null if self.semantic is None else self.semantic.after(null)


def _text_pass(expert: Any, captions: Sequence[str]) -> tuple[Callable[[], Any], Tensor]:
    """The understanding expert's pass over captions alone, and which tokens (batch, token) are no padding."""
    shown = expert.show([Stimulus(_BLANK, each, each) for each in captions], ("text",), "understanding", None)
    text, special = shown.tokens["text"], shown.special.get("text")
    if text is None or text.dtype != torch.bool:
        raise ValueError(f"{expert.name} does not hold its text as (batch, token, dim): it cannot be read by bridges")
    return shown.run, text if special is None else text | special


def _tower(expert: Any, run: Callable[[], Any], stream: str | None) -> Tower:
    """The expert's blocks as a tower, found from one pass of two samples."""
    stacks = find_stacks(expert.model)
    whole = [path for path, blocks in stacks.items() if tuple(blocks) == tuple(expert.blocks)]
    if not whole:
        raise ValueError(
            f"the {len(expert.blocks)} blocks of {expert.name} are no whole stack of its model, which has "
            f"{', '.join(stacks)}: give the expert one of these as its blocks"
        )
    stack = whole[0]
    return find_tower(expert.model, run, stack=stack, stream=stream)
