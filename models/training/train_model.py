"""One training loop for experts and fused models, on accelerate: a stopped run ends with the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ...probes.plans.layout_table import TRUNKS
from ...probes.stimuli.stimulus_set import Stimuli
from ..generation.sampling import as_generator
from ..scenes.dialogues import IMAGE
from .batches import batch_source, process_share
from .loop import Log, fit
from .resuming import check_same_run
from .validation import validation_loss

_EXPERT = re.compile(r"(^|\.)(understanding|generation)\.")

EVERY, CHECKPOINTS = 25, 10  # checkpoints of `train`: so many a run, and so many steps apart at least


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

    Parameters
    ----------
    data : what to train on instead of scenes; a tenth of it, by the hash of the caption, is left for validation, and
        two for maps and tests, as of the scenes.
    shuffled : give every image another image's caption: the floor, which learns all there is to learn but the text.
    learning_rate : of the matrices; 1e-2 for bridges, a tenth of it for the experts' own weights, and 2e-3 for one
        trunk if it is None.
    average, on_log, tensorboard : as of `fit`.
    validate : so many batches of the validation part are scored ten times in a run (`validation_loss` in the log).

    One trunk, and a trained understanding expert that was ours, is asked questions about scenes as well. A run that was
    stopped goes on; a finished one is loaded. Returns the log.

    Raises ValueError where `folder` holds a run of another plan or made otherwise, or the batch cannot be dealt to the
    processes; TypeError for data that are not Stimuli.
    """
    trunk = model.plan.layout in TRUNKS
    rate = learning_rate or (2e-3 if trunk else 1e-2)
    made = {"steps": steps, "seed": seed, "shuffled": shuffled, "batch_size": batch_size, "learning_rate": rate}
    made |= {"average": average, "data": data.digest if isinstance(data, Stimuli) else "scenes"}
    made["trained"] = sum(p.numel() for p in model.trained().parameters() if p.requires_grad)
    draw = batch_source(
        as_generator(model).pixels, data, seed, batch_size, shuffled, tokenizer=question_tokenizer(model)
    )
    state = Accelerator()
    check_same_run(Path(folder), model.plan, made)
    model.to(state.device).train()

    def loss(step: int) -> Tensor:
        return model.loss(process_share(draw(step), state.process_index, state.num_processes))

    def validation(step: int) -> dict[str, float]:
        losses = validation_loss(model, validate, data, batch_size=batch_size)
        return {"validation_loss": sum(losses) / len(losses)}

    # A gate starts at 0 and holds back the gradient of the maps behind it: it has to open first.
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
    """The tokenizer of a model that can learn to answer questions about scenes, else None."""
    if model.plan.layout not in TRUNKS and model.trained_experts == "bridges":
        return None
    tokenizer = model.tokenizer if model.plan.layout in TRUNKS else model.experts[0].tokenizer
    return tokenizer if IMAGE in tokenizer.get_vocab() else None


reader_of = question_tokenizer  # its former name
