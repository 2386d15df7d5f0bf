"""Fuse two unmodified experts at the layers of a bridge plan.

Generation reads understanding in two passes. The understanding tower runs once on the caption, and the keys and values
that it offers at the bridged blocks are kept; the generation tower then runs, at every sampling step, and reads them.
No other token sees noise, so a plan both ways draws in the same two passes; what it adds is that understanding reads a
clean image, both towers in lockstep. No forward is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ...probes.arguments import checked, file_name
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimulus
from ..bridges.registry import check_plan
from ..experts.diffusion.latent_generator import LatentGenerator
from ..generation.sampling import Generator, as_generator
from ..towers.tower import Tower
from ..towers.visiting import visiting
from .expert_passes import check_experts_meet, example_pass, expert_tower, noise_pass, text_pass
from .layer_mixes import layer_weights
from .losses import caption_loss, fused_loss
from .saved_model import PLAN, WEIGHTS, check_experts, describe_experts, load_state, read_model, save_model
from .semantic_tokens import SemanticTokens, fitting_tokens
from .text_states import TextStates
from .trained_parts import adapt_towers
from .two_towers import Fusion, UnderstandingStates


class FusedModel(Fusion, Generator):
    """An understanding and a generation expert, joined at the pairs of a plan; by default only the bridges are trained.

    Text reaches the generator through the bridges alone: its own text input is always the null caption.

    Parameters
    ----------
    understanding : Any
        An expert that reads text: a language model, a vision-language model, or an `AnyModel` around one of your own.
    generation : Any
        A `DitExpert`, a diffusers pipeline as `open_expert` opens it (a `LatentGenerator` is made of it), or another
        expert with `encode`, `predict` and `size`.
    plan : BridgePlan
        Its depths must be those of the two experts; `plan.stream` names the generator's tokens that read the text.

    Attributes
    ----------
    experts : tuple
        The understanding and the generation expert.
    trained_experts : {"bridges", "lora", "all"}
        What of the experts is trained beside the bridges; `adapt` sets it.
    rank : int
        The rank of the adapters; 0 without.
    steps : int
        The training steps so far, which evidence that rests on this model is charged with.
    null_text : Tensor
        The null caption's states, (1, token, dim).
    semantic : SemanticTokens or None
        The semantic tokens of the plan.

    Raises
    ------
    ValueError
        The experts do not fit the plan.
    TypeError
        The experts cannot be these towers.

    See Also
    --------
    Fusion : Joins any two models by their towers; passes, training and saving are yours then.
    UnifiedModel : Has one trunk for both tasks, where this keeps two experts.
    train : Trains the bridges on scenes or on your own data.

    Examples
    --------
    >>> fused = FusedModel(open_expert("scenes-vlm"), open_expert("scenes-dit"), plan)
    >>> text = fused.condition(["a red circle"])                  # once
    >>> fused.predict(noisy, text, time)                          # at every sampling step
    >>> fused.adapt("lora")                                       # train more than the bridges
    """

    null_text: Tensor
    experts: tuple[Any, Any]
    text_states: TextStates | None = None
    _described: list[dict[str, Any]] | None = None

    def __init__(self, understanding: Any, generation: Any, plan: BridgePlan) -> None:
        check_plan(plan)
        if hasattr(generation, "pipe") and not callable(getattr(generation, "predict", None)):
            generation = LatentGenerator(generation)
        check_experts_meet(understanding, generation)
        runs = example_pass(understanding), noise_pass(generation)
        towers = (
            expert_tower(understanding, runs[0], None),
            expert_tower(generation, runs[1], plan.stream),
        )
        super().__init__(*towers, plan, runs)
        self.experts = (understanding, generation)
        self.trained_experts, self.rank, self.steps = "bridges", 0, 0
        encoder = getattr(generation, "text_encoder", None)
        if isinstance(encoder, nn.Module):
            self.text_encoder = encoder.requires_grad_(False)
        with torch.no_grad():
            self.register_buffer("null_text", generation.encode([""]).clone(), persistent=False)
        self.semantic = self._semantic_tokens(runs[1]) if plan.semantic_tokens else None

    def _semantic_tokens(self, run_image: Callable[[], Tensor]) -> SemanticTokens:
        generation = self.experts[1]
        tower = expert_tower(generation, run_image, "text")
        ends = [number for number, places in enumerate(tower.places) if "text" in places]
        if not ends:
            raise ValueError(f"{generation.name} has no text stream for semantic tokens: plan without semantic_tokens")
        self.text_end = tower, ends[-1]
        return fitting_tokens(self, run_image)

    def at_text_end(self, keep: Callable[[Tensor], None]) -> AbstractContextManager[None]:
        """Pass the generator's text states (batch, token, dim) where its text stream ends to `keep`, within a context.

        A model without semantic tokens has not measured where that is.
        """
        tower, last = self.text_end
        return visiting(tower, {last: keep})

    @property
    def name(self) -> str:
        """Both experts' names and the layout."""
        return f"{self.experts[0].name} + {self.experts[1].name}, {self.plan.layout}"

    @property
    def device(self) -> torch.device:
        """Where the generation tower computes."""
        return self.generation.device

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of what is drawn: images or latents."""
        return self.experts[1].size

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the images that it is trained on: of what is drawn, or what latents encode."""
        return as_generator(self.experts[1]).pixels

    def latents(self, images: Tensor) -> Tensor:
        """Return what is drawn of images (batch, channel, row, column) in -1..1: latents if the generator has any."""
        return as_generator(self.experts[1]).latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of what was drawn, images or latents: (batch, channel, row, column) both."""
        return as_generator(self.experts[1]).decode(latents)

    def targets(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """Return what is to be drawn of stimuli: their images or latents, (batch, channel, row, column)."""
        _, rows, columns = self.pixels
        return self.latents(to_pixels([s.image for s in stimuli], rows, columns).to(self.device))

    def image_tower(self) -> Tower:
        """Return the generation tower as one that reads its image tokens, whatever stream the bridges enter."""
        if self.plan.stream == "image":
            return self.towers[1]
        return expert_tower(self.experts[1], noise_pass(self.experts[1]), "image")

    def adapt(self, trained: str, rank: int = 8) -> FusedModel:
        """Train more than the bridges. The experts that the model was made of change with it.

        Parameters
        ----------
        trained : {"lora", "all"}
            Low-rank adapters in both towers' blocks, or all of both towers.
        rank : int
            The rank of the adapters.

        Returns
        -------
        FusedModel
            This model.

        Raises
        ------
        ValueError
            Another word, a second call, an expert that has adapters already, or one that takes none. Then nothing has
            changed.

        Warns
        -----
        UserWarning
            More than a hundredth of the weights in the blocks have no adapters, as those of fused experts.
        """
        if self.trained_experts != "bridges":
            raise ValueError(f"this model trains {self.trained_experts!r} already: make a new one of fresh experts")
        if self.text_states is not None:
            raise ValueError("this model reads its text from disk, where states do not change: read_text_from(None)")
        self.described_experts()  # as they are now
        adapt_towers([(tower.model, tower.blocks) for tower in self.towers], trained, rank)
        self.trained_experts, self.rank = trained, rank
        return self

    def trained(self) -> nn.ModuleDict:
        """Return what is trained and saved: the bridges, semantic tokens, and the towers if they are adapted."""
        parts: dict[str, nn.Module] = {"bridges": self.bridges}
        if self.semantic is not None:
            parts["semantic"] = self.semantic
        if self.trained_experts != "bridges":
            parts |= {"understanding": self.understanding, "generation": self.generation}
        return nn.ModuleDict(parts)

    def train(self, mode: bool = True) -> FusedModel:
        """Set the training mode. Frozen experts stay in evaluation mode, but for the flag of gradient checkpointing."""
        if mode:
            self.described_experts()  # before sharding or training changes them
        super().train(mode)
        for tower in (self.understanding, self.generation, getattr(self, "text_encoder", self.generation)):
            if self.trained_experts == "bridges":
                tower.eval()
            for module in tower.modules():
                if getattr(module, "gradient_checkpointing", False):
                    module.training = mode  # transformers' blocks look at their own flag, and at nothing inside
        return self

    def read_text_from(self, states: TextStates | None) -> FusedModel:
        """Read captions from states on disk; the understanding tower runs on those that are not kept yet.

        Parameters
        ----------
        states : TextStates or None
            What `keep_text_states` returned. None runs the tower again.

        Returns
        -------
        FusedModel
            This model.

        Raises
        ------
        ValueError, TypeError
            They are no states, of another expert or for other bridges, or the understanding tower's states change: it
            is trained, or the plan runs both ways.
        """
        checked("states", states, TextStates | None, remedy="keep_text_states makes them")
        if states is not None:
            states.check(self)
            states.read_missing_by(self.experts[0], self.towers[0])
        self.text_states = states
        return self

    def condition(self, captions: Sequence[str]) -> UnderstandingStates:
        """Run the understanding tower once on the captions and return what the bridges read of it."""
        if self.text_states is not None:
            return self.offer(*self.text_states.read(captions, self.blocks_read, self.device))
        run, mask = text_pass(self.experts[0], captions)
        learns = self.trained_experts != "bridges" or (self.plan.both_ways and not self.inside)
        return self.read(run if learns else torch.no_grad()(run), mask.to(self.device))

    def predict(self, noisy: Tensor, text: UnderstandingStates, time: Tensor) -> Tensor:
        """Predict the clean image or latents from noisy ones.

        Parameters
        ----------
        noisy : Tensor
            (batch, channel, row, column).
        text : UnderstandingStates
            What `condition` returned for the captions.
        time : Tensor
            (batch,), 0 = clean, 1 = noise.

        Returns
        -------
        Tensor
            (batch, channel, row, column).
        """
        with self.reading(text):
            return self.experts[1].predict(noisy, self.own_text(len(noisy)), time)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss of a batch, a scalar; `models/fusion/losses.py` has its terms."""
        return fused_loss(self, batch)

    def caption_loss(self, captions: Sequence[str], image: Tensor) -> Tensor:
        """Return the cross-entropy (nats a token) of captions whose image is read off the generation tower alone.

        Parameters
        ----------
        captions : sequence of str
            One caption for each image.
        image : Tensor
            Clean images or latents, (batch, channel, row, column).

        Returns
        -------
        Tensor
            The loss, a scalar.

        Raises
        ------
        ValueError
            The plan runs one way.
        """
        return caption_loss(self, captions, image)

    def layer_weights(self) -> pd.DataFrame:
        """Return the share that each understanding block has in what each generation block reads (layout "soft").

        Returns
        -------
        DataFrame
            A table like a layer map, (understanding layer, generation layer), for the rule "soft". A bridged block's
            shares sum to 1; a block that is not bridged, or not among the taps, has none (NaN). `attrs` hold the
            depths of the towers, the share that each has at first ("chance") and under "cost" the training steps.

        Raises
        ------
        ValueError
            The plan is of another layout.

        See Also
        --------
        choose_bridges : Takes the table as evidence of the rule "soft".

        Examples
        --------
        >>> fused = FusedModel(vlm, dit, lay_out("soft", 16, 13))
        >>> train(fused, "runs/soft", steps=1, batch_size=2)
        >>> choose_bridges(fused.layer_weights(), rule="soft", bridges=4)
        """
        return layer_weights(self)

    def described_experts(self) -> list[dict[str, Any]]:
        """Return what the experts were before anything of them was trained (models/fusion/saved_model.py)."""
        if self._described is None:
            self._described = describe_experts(self.experts)
        return self._described

    def save(self, folder: str | Path) -> None:
        """Write what was trained and the plan into a folder, not the experts, whose fingerprints go with it."""
        trained = [self.trained_experts, self.rank, self.steps]
        save_model(folder, self._learnt(), self.plan, self.described_experts(), trained)

    @classmethod
    def load(cls, folder: str | Path, understanding: Any, generation: Any) -> FusedModel:
        """Open what `save` wrote, on the same two experts.

        Parameters
        ----------
        folder : str or Path
            The folder that `save` wrote.
        understanding, generation : Any
            The experts, as for the constructor.

        Returns
        -------
        FusedModel
            The trained model.

        Raises
        ------
        FileNotFoundError
            The plan or the bridges are missing.
        ValueError
            The file is damaged, does not hold what the plan asks for, or was trained with another plan or on other
            experts.
        """
        folder = file_name("folder", folder)
        plan = BridgePlan.load(folder / PLAN)
        state, about, (trained, rank, steps) = read_model(folder, plan)
        fused, path = cls(understanding, generation, plan), folder / WEIGHTS
        if about:
            check_experts(path, about["experts"], fused.described_experts())
        if trained != "bridges":
            fused.adapt(trained, rank)
        load_state(path, fused.trained(), fused._learnt(), state)
        fused.steps = steps
        return fused

    def _learnt(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.trained().named_parameters() if p.requires_grad}

    def own_text(self, count: int) -> Tensor:
        """Return the generator's own text input, the null caption and any semantic tokens: (count, token, dim)."""
        null = self.null_text.expand(count, -1, -1)
        return null if self.semantic is None else self.semantic.after(null)
