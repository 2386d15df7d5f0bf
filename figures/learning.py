"""Draw learning curves, of finished and of running training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .style import NO, need, styled


@styled
def learning_curves(log: pd.DataFrame) -> Figure:
    """Draw loss against step, one line per name, on a logarithmic scale where the losses span more than a decade.

    A line of more than 40 steps is drawn faint, with its running mean (over a twentieth of its steps) on top.

    Parameters
    ----------
    log : DataFrame
        Columns step, loss, name.

    Returns
    -------
    Figure
        The curves with their legend.

    Raises
    ------
    TypeError
        If `log` is no DataFrame.
    ValueError
        If columns or rows are missing.

    See Also
    --------
    live_curve : Draws a run while it trains.
    """
    log = need(log, ("step", "loss", "name"), "learning_curves", "the training log")
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    for name, rows in log.groupby("name", sort=False):
        colour = _losses(ax, rows.sort_values("step"))
        ax.plot([], [], color=colour, label=str(name))
    _logarithmic(ax, log.loss)
    ax.set(xlabel="step", ylabel="loss")
    figure.legend(loc="outside right upper")
    return figure


@styled
def live_curve(log: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the loss of a run so far, and the validation loss at its checkpoints, to be shown again while it trains.

    pyplot does not know the figure, so a notebook shows it only where `display` asks for it.

    Parameters
    ----------
    log : sequence of mappings
        What `train` returns and passes to `on_log`: lines with step and loss, and now and then with validation_loss.
        Before the first line it is empty.

    Returns
    -------
    Figure
        The curve, or an empty figure.

    Raises
    ------
    ValueError
        If the lines have no step or no loss.

    See Also
    --------
    learning_curves : Draws finished runs beside each other.

    Examples
    --------
    >>> display(live_curve([]), display_id="loss")
    >>> train(fused, "runs/mine", on_log=lambda log: update_display(live_curve(log), display_id="loss"))
    """
    figure = Figure(figsize=(6.4, 2.9))
    ax = figure.subplots()
    ax.set(xlabel="step", ylabel="loss", title="no steps yet")
    if not len(log):
        return figure
    table = need(pd.DataFrame(list(log)), ("step", "loss"), "live_curve", "train")
    title = f"step {table.step.iloc[-1]:g}: loss {table.loss.iloc[-1]:.3g}"
    ax.plot([], [], color=_losses(ax, table), label="training")
    if "validation_loss" in table and (checked := table.dropna(subset="validation_loss")).size:
        ax.plot(checked.step, checked.validation_loss, color=NO, marker="o", label="validation")
        title += f", validation {checked.validation_loss.iloc[-1]:.3g}"
    _logarithmic(ax, table.loss)
    ax.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


def _losses(ax: Axes, rows: pd.DataFrame) -> object:
    """Draw one line of losses, faint under its running mean where it is long, and return its colour."""
    noisy = len(rows) > 40
    (line,) = ax.plot(rows.step, rows.loss, lw=0.8 if noisy else 1.8, alpha=0.35 if noisy else 1.0)
    if noisy:
        mean = rows.loss.rolling(max(len(rows) // 20, 2), center=True, min_periods=1).mean()
        ax.plot(rows.step, mean, color=line.get_color())
    return line.get_color()


def _logarithmic(ax: Axes, losses: pd.Series) -> None:
    if losses.min() > 0 and losses.max() > 10 * losses.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
