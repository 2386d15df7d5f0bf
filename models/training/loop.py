"""Run the training loop: steps, averaged weights, checkpoints and a log.

The loop stands on accelerate. A run that is stopped and started again ends with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DataLoaderConfiguration, DistributedType, is_tensorboard_available
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...probes.arguments import checked, folder_name
from ...probes.folder_locks import writing
from ...probes.hooks.attention_calls import Attention, Intercept
from ...probes.private_names import parameters_of
from ...probes.workers.heartbeats import wait_for_all
from .optimizers import build_optimizers
from .resuming import Checkpoints

Log = list[dict[str, Any]]


def _attend_in_float(
    original: Attention, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> Tensor:
    """Compute attention in float32: in bfloat16 on a CPU its backward pass takes five times as long."""
    with torch.autocast("cpu", enabled=False):
        return original(query.float(), key.float(), value.float(), *args, **options)


class _Forward(nn.Module):
    """Run any function of the model as one forward pass: processes share gradients and gather weights around those."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[int], Any], step: int) -> Any:
        return run(step)


def fit(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    folder: str | Path,
    steps: int,
    *,
    learning_rate: float,
    muon: float | None = None,
    average: float | None = None,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    checkpoint_every: int = 250,
    validate: Callable[[int], dict[str, float]] | None = None,
    on_log: Callable[[Log], object] | None = None,
    tensorboard: bool = False,
    sharded_module: nn.Module | None = None,
    progress: str = "training",
) -> Log:
    """Train the parameters of `model` that require gradients, and leave the trained values in `model`.

    Parameters
    ----------
    model : torch.nn.Module
        The module that is trained.
    loss : Callable[[int], torch.Tensor]
        `loss(step)` makes batch number `step` and returns its loss, a scalar. It must be a function of the step alone,
        so that a resumed run sees what an uninterrupted one would have seen. With several processes each makes its own
        share of the batch: the mean over processes is the loss.
    folder : str or Path
        Its `state/` holds the newest checkpoint and `log.jsonl`, one line every 10 steps. A finished run in it is
        loaded, not repeated.
    steps : int
        Number of training steps.
    learning_rate : float
        Learning rate of AdamW. It is warmed up over 5 % of the steps and then falls to zero along a cosine.
    muon : float, optional
        Learning rate of Muon [1]_ for the matrices of blocks and bridges, on the same schedule, with updates as large
        as AdamW's [2]_. Both factors of a low-rank map count as matrices. None leaves the matrices to AdamW as well.
    average : float, optional
        Decay of an exponential moving average of the weights, which then replaces them at the end.
    lr_scale : Callable[[str], float]
        Factor on the learning rate of a parameter, by the parameter's name.
    checkpoint_every : int
        Number of steps between two checkpoints.
    validate : Callable[[int], dict[str, float]], optional
        Called at every checkpoint and at the end, with the averaged weights in place. Its numbers are logged.
    on_log : Callable[[Log], object], optional
        Called with the log after each new line, on the first process: a live curve.
    tensorboard : bool
        Whether to write the log for TensorBoard as well, into `folder/tensorboard`.
    sharded_module : torch.nn.Module, optional
        The module that FSDP shards, frozen experts included, where `model` is only a part of it.
    progress : str
        Label of the progress bar.

    Returns
    -------
    Log
        The log: one dictionary per line, with "step", "loss" and what `validate` returned.

    Raises
    ------
    FloatingPointError
        At the first loss or gradient that is not finite. The newest checkpoint stays as it was.
    RuntimeError
        For TensorBoard where it is not installed; or another process trains in the folder, or a rank has ended.
    OSError
        A checkpoint cannot be written, as on a full disk. The one before stays as it was.
    TypeError, ValueError
        For an argument of another type, or a number out of its range.

    Notes
    -----
    Accelerate's own settings hold: `ACCELERATE_MIXED_PRECISION=bf16` takes a quarter to a half off a step on CPUs
    that compute in it; `torchrun` and `accelerate launch` start several processes (docs/training.md). Under FSDP2
    AdamW takes the matrices too, at Muon's rate: accelerate keeps one optimizer for a sharded model.

    References
    ----------
    .. [1] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    .. [2] J. Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv 2502.16982.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: expected a torch.nn.Module")
    for name, function in {"loss": loss, "lr_scale": lr_scale}.items():
        checked(name, function, Callable)
    for name, function in {"validate": validate, "on_log": on_log}.items():
        checked(name, function, Callable | None)
    steps = checked("steps", steps, int, least=1)
    learning_rate = checked("learning_rate", learning_rate, float, above=0)
    muon = checked("muon", muon, float | None, above=0)
    average = checked("average", average, float | None, above=0, below=1)
    checkpoint_every = checked("checkpoint_every", checkpoint_every, int, least=1)
    checked("tensorboard", tensorboard, bool)
    folder = folder_name("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tensorboard and not is_tensorboard_available():
        raise RuntimeError("TensorBoard is not installed: pip install 'bridgework[tensorboard]', or train without it")
    wait_for_all()
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        dataloader_config=DataLoaderConfiguration(split_batches=True),  # else schedules step once per process
        log_with="tensorboard" if tensorboard else None,
        project_dir=folder,
    )
    alone = accelerator.distributed_type == DistributedType.NO
    prepared = sharded_module if sharded_module and accelerator.is_fsdp2 else model
    trained: nn.Module = model if alone else _Forward(prepared)
    named = [(name, p) for name, p in trained.named_parameters() if p.requires_grad]
    optimizers = build_optimizers(named, learning_rate, muon, lr_scale, together=accelerator.is_fsdp2)
    warm = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * s / steps))
        )
        for optimizer in optimizers
    ]
    trained, *updaters = accelerator.prepare(trained, *optimizers, *schedules)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    ema = EMAModel(parameters, decay=average) if average else None
    in_float = accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu"
    if tensorboard:
        accelerator.init_trackers("tensorboard")

    checkpoints = Checkpoints(folder, accelerator, trained, updaters, ema)
    held = ExitStack()
    if accelerator.is_main_process:
        held.enter_context(writing(folder))
    with held, _lost_ranks_named(folder, accelerator.num_processes):
        start, log = checkpoints.resume()
        shown = {"desc": progress, "mininterval": 1, "disable": not accelerator.is_main_process}
        with tqdm(total=steps, initial=start, **shown) as bar:
            for step in range(start, steps):
                with accelerator.autocast(), Intercept(_attend_in_float) if in_float else nullcontext():
                    value = loss(step) if alone else trained(loss, step)
                mean = accelerator.reduce(value.detach(), "mean")
                _check_finite("loss", mean, step, folder)
                accelerator.backward(value)
                norm = accelerator.clip_grad_norm_(parameters, 1.0)
                if accelerator.scaler is None:  # a scaler looks for such gradients itself and skips their step
                    _check_finite("gradient", norm, step, folder)
                for updater in updaters:  # optimizers, then schedules
                    updater.step()
                for p in parameters:
                    p.grad = None
                if ema:
                    ema.step(parameters)
                checkpoint = (step + 1) % checkpoint_every == 0 or step + 1 == steps
                if step % 10 == 0 or step + 1 == steps or (checkpoint and validate):
                    line = {"step": step, "loss": mean.item()}
                    if checkpoint and validate:
                        with _averaged(ema, parameters):
                            line |= validate(step) if alone else trained(validate, step)
                    log.append(line)
                    bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
                    accelerator.log({name: number for name, number in line.items() if name != "step"}, step)
                    if on_log and accelerator.is_main_process:
                        on_log(log)
                bar.update()
                if checkpoint:
                    checkpoints.save(step + 1, log)
    if ema:
        ema.copy_to(parameters)
    if accelerator.is_fsdp2:
        _gather(trained)
    if tensorboard:
        accelerator.end_training()
    return log


@contextmanager
def _lost_ranks_named(folder: Path, processes: int) -> Iterator[None]:
    """Say in a sentence what a backend's error means where a rank has died."""
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RuntimeError(
            f"a rank of the training in {folder} has ended, and this one cannot go on without it "
            f"({str(error).splitlines()[0][:160]}): run the same command again: it resumes from the last checkpoint"
        ) from None


def _check_finite(quantity: str, value: Any, step: int, folder: Path) -> None:
    if not math.isfinite(number := float(value.full_tensor() if hasattr(value, "full_tensor") else value)):
        raise FloatingPointError(
            f"{quantity} {number} at step {step} of {folder}: lower the learning rate and start it again"
        )


@contextmanager
def _averaged(ema: EMAModel | None, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Put the averaged weights in the place of the last ones while the context lasts."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def _gather(model: nn.Module) -> None:
    """Put whole tensors in the place of trained shards, on every process: the model can be saved, but not run."""
    for name, p in list(model.named_parameters()):
        if p.requires_grad and hasattr(p, "full_tensor"):
            owner, _, leaf = name.rpartition(".")
            parameters_of(model.get_submodule(owner))[leaf] = nn.Parameter(p.detach().full_tensor())  # type: ignore[attr-defined]
