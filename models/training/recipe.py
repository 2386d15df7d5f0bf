"""A training run as a small YAML file: what is joined, how, and on what it is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from accelerate import PartialState
from transformers import HfArgumentParser
from yaml import YAMLError

from ...probes.files import write_atomically
from ...probes.plans.bridge_plan import LAYOUTS, TRUNKS, BridgePlan
from ...probes.plans.choosing import rank_for
from ...probes.plans.layouts import lay_out
from ...probes.stimuli.sources import load_stimuli
from ...probes.stimuli.stimulus_set import Stimuli
from ..experts.opening import open_expert
from ..fusion.fused_model import FusedModel
from ..fusion.trained_parts import TRAINED
from ..unified.flow_model import UnifiedModel
from ..unified.token_model import UnifiedTokens
from .loop import Log
from .train_model import train

_OF_PLAN = ("layout", "stream", "both_ways", "gated", "rank", "semantic_tokens")


@dataclass(frozen=True)
class Recipe:
    """One training run. A YAML file holds these fields, by name; what it leaves out is as here.

    >>> run(Recipe.load("studies/recipes/scenes.yaml"), "runs/h")
    >>> run(replace(Recipe.load("studies/recipes/scenes.yaml"), layout="dense"), "runs/dense")

    Attributes:
        layout: one of shared, Y, X (one trunk), dense, H, double fusion, last; its published plan is laid out for the
            experts' depths (probes/plans/layouts.py).
        understanding, generation: the experts, as `open_expert` takes them; one trunk is as deep and wide as the first.
        data: "scenes", or images with captions as `load_stimuli` takes them, such as "noto" or a folder.
        plan: a plan (JSON), in place of a layout's published one: it then says all that the next five fields do.
        stream, both_ways, gated, rank, semantic_tokens: as of `BridgePlan`.
        parameters: at most so many in the bridges, met through their rank.
        trained: "bridges", "lora" (adapters in both experts as well) or "all". One trunk is always trained whole.
        objective: of one trunk, "flow" (image patches) or "tokens" (discrete image tokens).
        checkpointing: recompute the experts' states in the backward pass, for memory.
        shuffled, steps, seed, batch_size, learning_rate, average, validate, tensorboard: as of `train`.
    """

    layout: str | None = None
    understanding: str = "scenes-vlm"
    generation: str = "scenes-dit"
    data: str = "scenes"
    plan: str | None = None
    stream: str = "image"
    both_ways: bool = False
    gated: bool = True
    rank: int | None = None
    semantic_tokens: int = 0
    parameters: int | None = None
    trained: str = "bridges"
    objective: str = "flow"
    checkpointing: bool = False
    shuffled: bool = False
    steps: int = 600
    seed: int = 0
    batch_size: int = 32
    learning_rate: float | None = None
    average: float | None = None
    validate: int = 4
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Recipe).items():
            object.__setattr__(self, name, value := _number(getattr(self, name), kind))
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise TypeError(f"{name} is {value!r}: expected {getattr(kind, '__name__', kind)}")
        for name, known in (("layout", (*LAYOUTS, None)), ("trained", TRAINED), ("objective", ("flow", "tokens"))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(filter(None, known))}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is a decay between 0 and 1, such as 0.99, got {self.average}")
        if (self.layout is None) == (self.plan is None):
            raise ValueError("layout or plan must be given, one of the two: a layout's published plan or a plan's file")
        if self.plan is not None:
            told = [f.name for f in fields(self) if f.name in _OF_PLAN and getattr(self, f.name) != f.default]
            if told:
                raise ValueError(f"{told[0]} is said by the plan {self.plan}: leave it out here")
        if self.layout in TRUNKS:
            told = [n for n in ("rank", "parameters", "semantic_tokens", "both_ways") if getattr(self, n)]
            if told:
                raise ValueError(f"{told[0]} is of bridges, and the layout {self.layout!r} has none: leave it out")
        elif self.objective != "flow":
            raise ValueError(f"objective {self.objective!r} is of one trunk: choose a layout of {', '.join(TRUNKS)}")
        if self.rank is not None and self.parameters is not None:
            raise ValueError("parameters are met through the rank: give rank or parameters, not both")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe. Raises FileNotFoundError, or ValueError naming the file and the key that is wrong."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no recipe {path}: see studies/recipes/scenes.yaml for one")
        try:
            return HfArgumentParser(cls).parse_yaml_file(path)[0]  # type: ignore[arg-type]
        except YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        except (AttributeError, TypeError, ValueError) as error:
            told = str(error).replace("used by the HfArgumentParser", "known")
            if isinstance(error, AttributeError):
                told = "expected lines such as 'layout: H'"
            raise ValueError(f"recipe {path}: {told}") from None


def _number(value: Any, kind: Any) -> Any:
    """YAML reads 1e-3 as a word, and 1 as a whole number."""
    if kind != float | None or isinstance(value, bool) or not isinstance(value, int | str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def build(recipe: Recipe) -> Any:
    """The model of a recipe, untrained: the same weights every time.

    Raises ValueError or TypeError where the experts, the plan and the budget do not fit each other.
    """
    experts = [open_expert(name) for name in (recipe.understanding, recipe.generation)]
    plan = _plan(recipe, *(len(expert.blocks) for expert in experts))
    torch.manual_seed(recipe.seed)
    if plan.layout in TRUNKS:
        return (UnifiedModel if recipe.objective == "flow" else UnifiedTokens).from_experts(plan, *experts)

    def fuse(rank: int | None) -> FusedModel:
        torch.manual_seed(recipe.seed)
        return FusedModel(experts[0], experts[1], replace(plan, rank=rank))

    rank = plan.rank
    if recipe.parameters is not None:
        rank = rank_for(recipe.parameters, fuse(1).count_parameters)
    model = fuse(rank).adapt(recipe.trained)
    for expert in experts if recipe.checkpointing else ():
        of_transformers = hasattr(expert.model, "gradient_checkpointing_enable")  # diffusers has it the other way round
        (
            expert.model.gradient_checkpointing_enable
            if of_transformers
            else expert.model.enable_gradient_checkpointing
        )()
    return model


def _plan(recipe: Recipe, understanding: int, generation: int) -> BridgePlan:
    if recipe.plan is not None:
        return BridgePlan.load(recipe.plan)
    if recipe.layout in TRUNKS:
        return lay_out(str(recipe.layout), understanding, understanding)
    return lay_out(
        str(recipe.layout), understanding, generation, **{name: getattr(recipe, name) for name in _OF_PLAN[1:]}
    )


def data(recipe: Recipe) -> Stimuli | None:
    """The recipe's images and captions; None stands for scenes.

    Raises ValueError, TypeError or FileNotFoundError naming what has no caption, and what to do.
    """
    return None if recipe.data == "scenes" else load_stimuli(recipe.data)


def run_recipe(recipe: Recipe, folder: str | Path, on_log: Callable[[Log], object] | None = None) -> Any:
    """Build and train a recipe's model in `folder`, or go on with it; returns the trained model.

    The folder then holds the model, its plan and `recipe.json`. Raises as `build` and `train` do.
    """
    model = build(recipe)
    names = ("steps", "seed", "shuffled", "batch_size", "learning_rate", "average", "validate", "tensorboard")
    options = {name: getattr(recipe, name) for name in names}
    train(model, folder, data=data(recipe), on_log=on_log, **options)
    if PartialState().is_main_process:
        text = json.dumps(asdict(recipe), indent=2) + "\n"
        write_atomically(Path(folder) / "recipe.json", lambda path: path.write_text(text, encoding="utf-8"))
    return model
