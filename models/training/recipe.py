"""Read a training run from a small YAML file: what is joined, how, and on what it is trained.

What builds and trains models is imported where it is used, so that the command's help, which reads `Recipe`, comes at
once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...probes.arguments import check_names, check_options, checked, file_name, folder_name, option
from ...probes.file_formats import with_format, without_format
from ...probes.files import write_json
from ...probes.plans.bridge_plan import STREAMS
from ...probes.plans.layout_table import LAYOUTS, TRUNKS
from ...probes.tensor_files import read_sealed, with_seal
from ..bridges.trained_names import TRAINED
from .training_limits import LIMITS

if TYPE_CHECKING:
    from .loop import Log

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "studies" / "recipes"

OBJECTIVES = ("flow", "tokens")  # of one trunk
NAMED: dict[str, Any] = {"filled": True, "remedy": "leave it out for the default"}
_OF_PLAN = ("layout", "stream", "both_ways", "gated", "rank", "semantic_tokens")  # what a plan settles


@dataclass(frozen=True)
class Recipe:
    """Hold one training run. A YAML file holds these fields, by name; a field that it leaves out has its default.

    Attributes
    ----------
    layout : str or None
        One of shared, Y, X (one trunk), dense, H, double fusion, last, soft. Its published plan is laid out for the
        experts' depths (probes/plans/layouts.py).
    understanding, generation : str or None
        The experts, as `open_expert` takes them. None is the one that the plan was chosen on, and where the plan names
        none, or there is no plan, scenes-vlm and scenes-dit. One trunk is as deep and wide as the first.
    data : str
        "scenes", or images with captions as `load_stimuli` takes them, such as "noto", a folder or a table.
    image_column, text_column, root : str or None
        Where images and captions stand in a table, and the folder that paths of images begin at: `image`, `text` and
        `root` of `load_stimuli`.
    plan : str or None
        The file of a plan (JSON), in place of a layout's published plan. It then settles the next five fields. A path
        is relative to the working folder, and if nothing lies there, to the folder of the package.
    stream, both_ways, gated, rank, semantic_tokens
        As of `BridgePlan`.
    parameters : int or None
        How many parameters the bridges may have; the rank is chosen to meet it.
    trained : str
        "bridges"; "lora", adapters in both experts as well; or "all". One trunk is always trained whole.
    objective : str
        Of one trunk: "flow" (image patches) or "tokens" (discrete image tokens).
    text_states : str or None
        A folder for what bridges read of the frozen understanding expert: each caption is read once
        (`keep_text_states`), and other runs of this expert read it there. For plans that run one way, and captions that
        repeat.
    checkpointing : bool
        Whether the experts' states are computed again in the backward pass, to save memory.
    shuffled, steps, seed, batch_size, learning_rate, average, validate, tensorboard
        As of `train`.

    Raises
    ------
    ValueError, TypeError
        A field has an unknown value or another type, or two contradict each other.

    See Also
    --------
    run_recipe : Builds and trains what a recipe says.
    train : Trains a model that you have built yourself.

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.

    Examples
    --------
    >>> run_recipe(Recipe.load("scenes"), "runs/h")
    >>> run_recipe(replace(Recipe.load("scenes"), layout="dense"), "runs/dense")
    """

    layout: str | None = option(
        None,
        f"How the two experts are joined: one of {', '.join(LAYOUTS)}. "
        "(default: none; a recipe names a layout or a plan)",
        {"known": tuple(LAYOUTS)},
    )
    understanding: str | None = option(
        None, "The understanding expert: a name, a folder or a Hub id. (default: the plan's, else scenes-vlm)", NAMED
    )
    generation: str | None = option(
        None, "The generation expert: a name, a folder or a Hub id. (default: the plan's, else scenes-dit)", NAMED
    )
    data: str = option(
        "scenes", "What is trained on: scenes, noto, or a folder, table or archive of images with captions.", NAMED
    )
    image_column: str | None = option(None, "The column of images or their paths. (default: found by its name)", NAMED)
    text_column: str | None = option(None, "The column of captions. (default: found by its name)", NAMED)
    root: str | None = option(None, "The folder that paths of images begin at. (default: that of the table)", NAMED)
    plan: str | None = option(
        None,
        "The file of a bridge plan (JSON), in place of the layout's published plan. (default: the published plan)",
        NAMED,
        metavar="FILE",
    )
    stream: str = option(
        "image", f"The generation expert's stream that bridges enter: {', '.join(STREAMS)}.", {"known": STREAMS}
    )
    both_ways: bool = option(False, "Let understanding read generation as well.")
    gated: bool = option(True, "Pass what a bridge brings through a gate that starts at 0, or without a gate.")
    rank: int | None = option(None, "The rank of the bridges' linear maps. (default: full rank)", {"least": 1})
    semantic_tokens: int = option(0, "How many semantic tokens are added to the generator's sequence.", {"least": 0})
    parameters: int | None = option(
        None,
        "How many parameters the bridges may have; the rank is chosen to meet it. (default: no limit)",
        {"least": 1, "most": 10**12},
    )
    trained: str = option(
        "bridges", "What is trained: bridges, lora (adapters in both experts as well) or all.", {"known": TRAINED}
    )
    objective: str = option(
        "flow",
        "What one trunk draws with: flow (image patches) or tokens (discrete image tokens).",
        {"known": OBJECTIVES},
    )
    text_states: str | None = option(
        None,
        "A folder where what bridges read of the frozen understanding expert is kept, so that it reads each caption "
        "once. (default: it reads every caption at every step)",
        NAMED,
        metavar="FOLDER",
    )
    checkpointing: bool = option(False, "Compute the experts' states again in the backward pass, to save memory.")
    shuffled: bool = option(False, "Train with the captions of other images: the floor of what bridges bring.")
    steps: int = option(600, "How many training steps are made.", LIMITS["steps"])
    seed: int = option(0, "The seed of the new weights and of the order of the data.", LIMITS["seed"])
    batch_size: int = option(32, "How many images one training step sees.", LIMITS["batch_size"])
    learning_rate: float | None = option(
        None,
        "The peak learning rate. (default: the one that suits what is trained)",
        LIMITS["learning_rate"],
    )
    average: float | None = option(
        None,
        "The decay of a moving average of the weights, such as .99. (default: no average)",
        LIMITS["average"],
    )
    validate: int = option(
        4,
        "How many validation batches are scored, ten times in a run; 0 for none.",
        LIMITS["validate"],
    )
    tensorboard: bool = option(False, "Write the log for TensorBoard as well.")

    def __post_init__(self) -> None:
        check_options(self)
        if (self.layout is None) == (self.plan is None):
            raise ValueError("layout or plan must be given, one of the two: a layout's published plan or a plan's file")
        if self.plan is not None:
            settled = [f.name for f in fields(self) if f.name in _OF_PLAN and getattr(self, f.name) != f.default]
            if settled:
                raise ValueError(f"{settled[0]} is said by the plan {self.plan}: leave it out here")
        if self.layout in TRUNKS:
            bridging = [n for n in ("rank", "parameters", "semantic_tokens", "both_ways") if getattr(self, n)]
            if bridging:
                raise ValueError(f"{bridging[0]} is of bridges, and the layout {self.layout!r} has none: leave it out")
        elif self.objective != "flow":
            raise ValueError(f"objective {self.objective!r} is of one trunk: choose a layout of {', '.join(TRUNKS)}")
        if self.text_states is not None and (self.layout in TRUNKS or self.trained != "bridges" or self.both_ways):
            raise ValueError(
                f"text_states {self.text_states!r} is a folder for states that do not change: train the bridges alone, "
                "of a plan of two experts that runs one way, or leave it out"
            )
        if self.rank is not None and self.parameters is not None:
            raise ValueError("parameters are met through the rank: give rank or parameters, not both")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a file, or a shipped one by its name.

        Parameters
        ----------
        path : path
            A YAML file, the recipe.json of a run, or the name of a recipe in studies/recipes, such as "scenes".

        Returns
        -------
        Recipe
            The recipe.

        Raises
        ------
        FileNotFoundError
            There is no such file, and no shipped recipe of this name.
        ValueError
            The file is no recipe; the message names the file and the key that is wrong.
        """
        path = file_name("path", path)
        shipped = {recipe.stem: recipe for recipe in sorted(SHIPPED.glob("*.yaml"))}
        file = path if path.is_file() else shipped.get(str(path))
        if file is None:
            raise FileNotFoundError(f"no recipe {path}: expected a YAML file or one of {', '.join(shipped)}")
        try:
            return cls(**_fields_of(file))
        except (TypeError, ValueError) as error:
            raise ValueError(f"recipe {path}: {error}") from None


def _fields_of(file: Path) -> dict[str, Any]:
    """Return the fields of a recipe that a YAML file or a run's recipe.json holds, by name."""
    from yaml import YAMLError, safe_load

    try:
        held = read_sealed(file) if file.suffix == ".json" else safe_load(file.read_bytes().decode("utf-8"))
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"expected YAML, lines such as 'layout: H' ({' '.join(str(error).split())})") from None
    if not isinstance(held, dict):
        raise ValueError(f"expected lines such as 'layout: H', got {type(held).__name__}")
    held = without_format("recipe", file, held)[1]
    check_names("key", map(str, held), [each.name for each in fields(Recipe)])
    rates = {name: _number(value) for name, value in held.items() if name in ("learning_rate", "average")}
    return held | rates


def _number(value: Any) -> Any:
    """Return a number where YAML reads one as a word, such as 1e-3."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def build(recipe: Recipe) -> Any:
    """Build the model of a recipe, untrained, with the same weights every time.

    Parameters
    ----------
    recipe : Recipe
        The recipe.

    Returns
    -------
    FusedModel, UnifiedModel or UnifiedTokens
        The model.

    Raises
    ------
    ValueError, TypeError
        The experts, the plan and the budget of parameters do not fit each other, or the plan was chosen on an expert
        that it does not say how to open.
    """
    import torch

    from ...probes.plans.layouts import rank_for
    from ..fusion.fused_model import FusedModel
    from ..towers.checkpointing import checkpoint_blocks
    from ..unified.flow_model import UnifiedModel
    from ..unified.token_model import UnifiedTokens
    from .plan_experts import open_experts, plan_of

    experts = open_experts(recipe)
    plan = plan_of(recipe, *(len(expert.blocks) for expert in experts))
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
        checkpoint_blocks(expert.model)
    return model


def run_recipe(recipe: Recipe, folder: str | Path, on_log: Callable[[Log], object] | None = None) -> Any:
    """Build and train a recipe's model, or resume a run that was stopped.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    folder : path
        The folder of the run. Afterwards it holds the model, its plan and recipe.json.
    on_log : callable, optional
        Called with every line of the log.

    Returns
    -------
    FusedModel, UnifiedModel or UnifiedTokens
        The trained model.

    Raises
    ------
    ValueError, TypeError
        As `build` and `train` do.

    See Also
    --------
    train : Trains a model that you have built yourself, such as on data that no recipe opens.
    Recipe.load : Reads a recipe from its file.

    Examples
    --------
    >>> short = replace(Recipe.load("scenes"), steps=1, batch_size=2, validate=0)
    >>> fused = run_recipe(short, "runs/short")
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is a {type(recipe).__name__}: expected a Recipe, such as Recipe.load('scenes')")
    folder = folder_name("folder", folder)
    checked("on_log", on_log, Callable | None)
    from ...probes.stimuli.sources import load_stimuli
    from ..experts.downloads.expert_sources import source_of
    from .plan_experts import data_of, with_experts

    recipe = with_experts(recipe)
    for expert in (recipe.understanding, recipe.generation):
        source_of(str(expert))
    if recipe.data != "scenes" and not Path(recipe.data).expanduser().exists():
        load_stimuli(recipe.data, 1)
    from accelerate import PartialState

    from ..fusion.text_states import keep_text_states
    from .train_model import train

    stimuli = data_of(recipe)  # what is wrong with it is said before experts are opened
    model = build(recipe)
    if recipe.text_states is not None:
        if model.plan.layout in TRUNKS or model.plan.both_ways:
            raise ValueError(
                f"text_states {recipe.text_states!r} is for two experts and a plan that runs one way, and "
                f"{recipe.plan} is another: leave it out"
            )
        model.read_text_from(keep_text_states(model.experts[0], (), recipe.text_states, model.inside))
    names = ("steps", "seed", "shuffled", "batch_size", "learning_rate", "average", "validate", "tensorboard")
    options = {name: getattr(recipe, name) for name in names}
    train(model, folder, data=stimuli, on_log=on_log, **options)
    if PartialState().is_main_process:
        write_json(folder / "recipe.json", with_seal(with_format("recipe", asdict(recipe))))
    return model
