"""Measure where two tasks pull shared parameters apart: the conflict of their gradients, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..arguments import checked
from ..comparison_options import MOST_DRAWS, check_comparison
from ..hooks.block_stacks import find_block
from ..hooks.model_state import evaluating, frozen
from ..similarity.intervals import Z95

Losses = Sequence[Callable[[], Tensor]]
HALVES = 50  # random halves that the baseline is averaged over


def gradient_conflict(
    model: nn.Module, blocks: Sequence[str], tasks: Mapping[str, Losses], *, splits: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Measure the conflict between two tasks' gradients of each block's parameters (Uni-X [1]_).

    ::

        conflict = -(cos(g_first, g_second) - cos(g_half, g_other half))

    It is the cosine between the gradients of n batches of either task, less what it is between two random halves of the
    same data, each of them half of both tasks: so both compare sums of n batches, and noise lowers both alike. 0 means
    that the tasks differ no more than random batches do; above 0 they pull apart.

    Parameters
    ----------
    model : Module
        The model. Parameters that do not require gradients get them meanwhile, and all are left as they were.
    blocks : sequence of str
        The paths of the blocks in the model.
    tasks : mapping of str to sequence of callables
        Two names, each with as many functions as the other, a multiple of four. A call makes one batch and returns its
        loss, always the same.
    splits : int
        The splits of the batches into halves, from whose scores the interval is made.
    seed : int
        The seed of the splits.

    Returns
    -------
    DataFrame
        One row per block: tasks, layer, depth, cosine, baseline, conflict, low, high (95 %; in simulation it covers
        .885 to .945), batches (of each task). `attrs` hold metric, batches, and in cost the seconds that it took; add
        the steps that trained the model, where it was trained for this.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If there is another number of tasks or batches, or if no gradient reaches a block.

    See Also
    --------
    choose_bridges : Chooses bridges from the table by the rule "gradient_conflict".

    Notes
    -----
    One block is measured at a time, so that 2 n gradients of one block are held, and all batches are run once for each
    block.

    References
    ----------
    .. [1] Uni-X, arXiv 2509.24365.

    Examples
    --------
    >>> def loss(text):
    ...     ids = vlm.tokenizer(text, return_tensors="pt").input_ids
    ...     return vlm.model(input_ids=ids, labels=ids).loss
    >>> short, long = ([partial(loss, text) for text in texts] for texts in (["a red circle"] * 8, stimuli.texts[:8]))
    >>> gradient_conflict(vlm.model, vlm.blocks[-2:], {"short": short, "long": long})
    """
    checked("model", model, nn.Module, remedy="pass the torch module whose blocks are measured")
    checked("blocks", blocks, Sequence[str], remedy="name blocks by their paths, as find_stacks lists them")
    checked("tasks", tasks, Mapping, remedy="pass two names, each with functions that return a loss")
    checked("splits", splits, int, least=1, most=MOST_DRAWS)
    check_comparison(seed=seed)
    for name, losses in tasks.items():
        checked(f"the batches of {name}", losses, Sequence[Callable], remedy="pass functions that return a loss")
    names, count = tuple(tasks), len(next(iter(tasks.values()), ()))
    if len(names) != 2 or {len(losses) for losses in tasks.values()} != {count} or count < 4 or count % 4:
        counts = {name: len(losses) for name, losses in tasks.items()}
        raise ValueError(f"expected two tasks with equally many batches, a multiple of four, got {counts}")
    rows, began = [], time.monotonic()
    with evaluating(model):
        for number, path in enumerate(tqdm(blocks, desc="gradient conflict", leave=False)):
            gram = _gram(model, path, [loss for losses in tasks.values() for loss in losses])
            row = {"tasks": " x ".join(names), "layer": str(number), "depth": (number + 1) / len(blocks)}
            rows.append(row | score(gram, splits, seed))
    table = pd.DataFrame(rows)
    table.attrs |= {"metric": "conflict", "batches": count}
    table.attrs["cost"] = {"seconds": round(time.monotonic() - began, 1)}
    return table


def score(gram: np.ndarray, splits: int = 100, seed: int = 0) -> dict[str, float]:
    """Compute the conflict and its interval from the inner products of all batches' gradients.

    Parameters
    ----------
    gram : array of shape (2 n, 2 n)
        The inner products. The first n rows are the first task's.
    splits : int
        The splits of the batches into halves.
    seed : int
        The seed of the splits.

    Returns
    -------
    dict
        cosine, baseline, conflict, low, high (95 %), and batches, n.
    """
    count = len(gram) // 2
    rng = np.random.default_rng(seed)
    cosine, baseline = _cosines(gram, rng)
    apart = []
    for _ in range(splits):
        first, second = rng.permutation(count), count + rng.permutation(count)
        halves = [
            np.concatenate([s[: count // 2], o[: count // 2]])
            for s, o in ((first, second), (first[::-1], second[::-1]))
        ]
        apart.append([np.subtract(*_cosines(gram[np.ix_(half, half)], rng)) for half in halves])
    # Halves are independent. Where the conflict is nearly linear in the batches, the variance wanted is that of half
    # their difference (their mean then does not vary); where noise outweighs the gradients, a cosine varies as much
    # over half of the batches as over all, and the variance of their mean is what is missing.
    one, other = np.array(apart).T
    reach = Z95 * float(np.sqrt(np.mean((one - other) ** 2) / 4 + np.var((one + other) / 2)))
    conflict = baseline - cosine
    low, high = conflict - reach, conflict + reach
    return {"cosine": cosine, "baseline": baseline, "conflict": conflict, "low": low, "high": high, "batches": count}


def _cosines(gram: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the cosine between the two tasks, and the mean cosine between two random halves of both."""
    count = len(gram) // 2
    task = np.repeat([1.0, 0.0], count)
    halves = []
    for _ in range(HALVES):
        half = np.zeros(2 * count)
        for start in (0, count):
            half[start + rng.permutation(count)[: count // 2]] = 1
        halves.append(_cosine(gram, half, 1 - half))
    return _cosine(gram, task, 1 - task), float(np.mean(halves))


def _cosine(gram: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ gram @ other / np.sqrt((one @ gram @ one) * (other @ gram @ other)))


def _gram(model: nn.Module, path: str, losses: Losses) -> np.ndarray:
    """Return the inner products (batch, batch) of the gradients of one block's parameters, float64."""
    with _only(model, path) as parameters, torch.enable_grad():
        gradients = []
        for loss in losses:
            found = torch.autograd.grad(_checked_loss(loss()), parameters, allow_unused=True)
            if any(g is not None and not g.isfinite().all() for g in found):
                raise ValueError(
                    f"a gradient of the loss at block {path!r} is not finite: train or load the model first"
                )
            if all(g is None or not g.any() for g in found):
                raise ValueError(f"no gradient of the loss reaches block {path!r}: it has no conflict to measure")
            whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            gradients.append(torch.cat([g.detach().float().flatten() for g in whole]))
        rows = torch.stack(gradients)
        gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for columns in rows.split(1 << 16, dim=1):
            gram += columns.double() @ columns.double().T
        return gram.cpu().numpy()


def _checked_loss(loss: object) -> Tensor:
    """Return what a user's function gave, if it is a finite loss that has a gradient."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"a function of tasks gave {found}: expected a loss, a tensor of one number")
    if not loss.isfinite().all():
        raise ValueError(f"a function of tasks gave the loss {loss.item()}: expected a finite number")
    if not loss.requires_grad:
        raise ValueError("a function of tasks gave a loss without a gradient: compute it outside no_grad, on the model")
    return loss.reshape(())


@contextmanager
def _only(model: nn.Module, path: str) -> Iterator[list[nn.Parameter]]:
    """Let the block's parameters alone require gradients while the context lasts."""
    parameters = list(find_block(model, path).parameters())
    with frozen(model):
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield parameters
