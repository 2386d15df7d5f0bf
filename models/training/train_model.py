"""Train a fused or unified model on scenes, or on any images with captions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ...probes.arguments import checked, folder_name
from ...probes.plans.layout_table import TRUNKS
from ...probes.stimuli.stimulus_set import Stimuli
from ...probes.workers.heartbeats import wait_for_all
from ..generation.sampling import as_generator
from ..scenes.dialogues import IMAGE
from .batches import batch_source, process_share
from .loop import Log, fit
from .resuming import check_same_run
from .training_limits import check_training
from .validation import validation_loss

_EXPERT = re.compile(r"(^|\.)(understanding|generation)\.")  # names of an expert's own weights

CHECKPOINTS = 10  # in a run
EVERY = 25  # steps between two checkpoints, at least


def train(
    model: Any,
    folder: str | Path,
    steps: int = 600,
    *,
    data: Stimuli | None = None,
    seed: int = 0,
    shuffled: bool = False,
    batch_size: int = 32,
    learning_rate: float | None = None,
    average: float | None = None,
    validate: int = 0,
    on_log: Callable[[Log], object] | None = None,
    tensorboard: bool = False,
) -> Log:
    """Train a fused or unified model on scenes, or on any images with captions, and save it to `folder`.

    A run that was stopped is resumed; a finished one is loaded, or made longer by more steps.

    Parameters
    ----------
    model : FusedModel, UnifiedModel or UnifiedTokens
        The model. It comes back trained, in evaluation mode.
    folder : str or Path
        Folder of the run: the model, its plan and its checkpoints.
    steps : int
        Number of training steps.
    data : Stimuli, optional
        What to train on instead of scenes. A tenth of it, by the hash of the caption, is left for validation, and two
        tenths for maps and tests, as with the scenes.
    seed : int
        Seed of the batches.
    shuffled : bool
        Whether every image gets another image's caption: the floor, which learns all there is to learn but the text.
    batch_size : int
        Number of images in a batch, over all processes.
    learning_rate : float, optional
        Learning rate of the matrices. None stands for 1e-2 for bridges and a tenth of it for the experts' own weights,
        and for 2e-3 for one trunk.
    average : float, optional
        Decay of an exponential moving average of the weights, as in `fit`.
    validate : int
        Number of batches of the validation part that are scored ten times in a run (`validation_loss` in the log).
    on_log : Callable[[Log], object], optional
        Called with the log after each new line, as in `fit`.
    tensorboard : bool
        Whether to write the log for TensorBoard as well, as in `fit`.

    Returns
    -------
    Log
        The log: one dictionary per line, with "step", "loss" and, at checkpoints, "validation_loss".

    Raises
    ------
    ValueError
        If `folder` holds a run with another plan or other settings, the batch cannot be dealt to the processes, or a
        number is out of its range: a learning rate of 0, steps below 1, an average that is no decay.
    TypeError
        If the data are not Stimuli, an argument is of another type, or the model has no loss, as a bare `Fusion`.

    Warns
    -----
    UserWarning
        If a finished run is made longer: its learning rate rises again.

    See Also
    --------
    run_recipe : Builds the model as well, from a file that says how.
    evaluate : Scores what was trained.

    Notes
    -----
    One trunk, and a trained understanding expert of ours, learns to answer questions about scenes as well.

    Examples
    --------
    >>> log = train(fused, "runs/mine", steps=1, data=load_stimuli("noto", 64), batch_size=2)
    >>> sorted(log[-1])
    ['loss', 'step'...]
    """
    if not callable(getattr(model, "loss", None)):
        raise TypeError(
            f"a {type(model).__name__} has no loss to train by: build a FusedModel(understanding, generation, plan) of "
            "two experts, or step an optimizer over the bridges by a loop of your own"
        )
    numbers = {"steps": steps, "seed": seed, "batch_size": batch_size, "validate": validate}
    given = check_training(
        **numbers, learning_rate=learning_rate, average=average, shuffled=shuffled, tensorboard=tensorboard
    )
    steps, seed, batch_size, validate = (given[name] for name in ("steps", "seed", "batch_size", "validate"))
    folder, average = folder_name("folder", folder), given["average"]
    checked("on_log", on_log, Callable | None)
    trunk = model.plan.layout in TRUNKS
    rate = (2e-3 if trunk else 1e-2) if learning_rate is None else given["learning_rate"]
    settings = {"steps": steps, "seed": seed, "shuffled": shuffled, "batch_size": batch_size, "learning_rate": rate}
    settings |= {"average": average, "data": data.digest if isinstance(data, Stimuli) else "scenes"}
    settings["text_states"] = states.dtype if (states := getattr(model, "text_states", None)) else None
    settings["trained"] = sum(p.numel() for p in model.trained().parameters() if p.requires_grad)
    draw = batch_source(
        as_generator(model).pixels, data, seed, batch_size, shuffled, tokenizer=question_tokenizer(model)
    )
    wait_for_all()
    state = Accelerator()
    check_same_run(folder, model.plan, settings)
    model.to(state.device).train()

    def loss(step: int) -> Tensor:
        return model.loss(process_share(draw(step), state.process_index, state.num_processes))

    def validation(step: int) -> dict[str, float]:
        losses = validation_loss(model, validate, data, batch_size=batch_size)
        return {"validation_loss": sum(losses) / len(losses)}

    # A gate starts at 0 and holds back the gradient of the maps behind it: twice the rate opens it first.
    log = fit(
        model.trained(), loss, folder, steps, learning_rate=rate / 2 if trunk else 2 * rate, muon=rate, average=average,
        lr_scale=lambda name: 0.1 if _EXPERT.search(name) else 1.0, checkpoint_every=max(EVERY, steps // CHECKPOINTS),
        validate=validation if validate else None, on_log=on_log, tensorboard=tensorboard, sharded_module=model,
        progress=f"train {model.plan.layout}, {model.plan.rule}",
    )  # fmt: skip
    model.eval()
    model.steps = steps
    if state.is_main_process:
        model.save(folder)
    state.wait_for_everyone()
    return log


def question_tokenizer(model: Any) -> Any:
    """Return the tokenizer of a model that can learn to answer questions about scenes, else None.

    Parameters
    ----------
    model : FusedModel, UnifiedModel or UnifiedTokens
        The model.

    Returns
    -------
    PreTrainedTokenizerFast or None
        None if the experts are frozen, or if their tokenizer does not have the scenes' placeholder of an image.
    """
    if not hasattr(model, "plan"):
        raise TypeError(f"a {type(model).__name__} has no plan: expected a fused or unified model")
    if model.plan.layout not in TRUNKS and model.trained_experts == "bridges":
        return None
    tokenizer = model.tokenizer if model.plan.layout in TRUNKS else model.experts[0].tokenizer
    return tokenizer if IMAGE in tokenizer.get_vocab() else None


reader_of = question_tokenizer  # its former name
