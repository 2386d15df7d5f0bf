"""Draw learning curves, of finished and of running training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..probes.arguments import checked
from .publishing.drawn import Drawn, LabelledFigure, remember
from .publishing.line_names import name_ends
from .publishing.page import page_height, page_width
from .style import NO, need, one_panel, styled


@styled
def learning_curves(log: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw loss against step, one line per name, on a logarithmic scale where the losses span more than a decade.

    A line of more than 40 steps is drawn faint, with its running mean (over a twentieth of its steps) on top.

    Parameters
    ----------
    log : DataFrame
        Columns step, loss, name.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Figure
        The curves, with their names where they end. With `ax`, the figure that it stands in.

    Raises
    ------
    TypeError
        If `log` is no DataFrame, or `ax` no Axes.
    ValueError
        If columns or rows are missing.

    See Also
    --------
    live_curve : Draws a run while it trains.

    Examples
    --------
    >>> figure = figures.learning_curves(pd.DataFrame(log).assign(name="bridges"))
    """
    log = need(log, ("step", "loss", "name"), "learning_curves", "the training log")
    figure, ax = one_panel(ax, (page_width(6.4), page_height(3.4, 0.3 + 0.5 * page_width(0))), "learning_curves")
    curves = {str(name): rows.sort_values("step") for name, rows in log.groupby("name", sort=False)}
    name_ends(ax, [(name, *_losses(ax, rows)) for name, rows in curves.items()], 0.3 * page_width(3))
    _logarithmic(ax, log.loss)
    ax.set(xlabel="step", ylabel="loss")
    last = [{"name": name, "step": rows.step.iloc[-1], "loss": rows.loss.iloc[-1]} for name, rows in curves.items()]
    text = f"Loss against training step: {', '.join(curves)}. Faint lines are single steps, full ones running means."
    remember(figure, Drawn("learning_curves", {"log": log}, text, pd.DataFrame(last)))
    return figure


@styled
def live_curve(log: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Figure:
    """Draw the loss of a run so far, and the validation loss at its checkpoints, to be shown again while it trains.

    pyplot does not know the figure, so a notebook shows it only where `display` asks for it.

    Parameters
    ----------
    log : sequence of mappings
        What `train` returns and passes to `on_log`: lines with step and loss, and now and then with validation_loss.
        Before the first line it is empty.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Figure
        The curve, or an empty figure. With `ax`, the figure that it stands in.

    Raises
    ------
    TypeError
        If `ax` is no Axes.
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
    checked("log", log, Sequence, remedy="pass a list of lines, as train gives them to on_log")
    size = page_width(6.4), page_height(2.9, 0.3 + 0.5 * page_width(0))
    figure, ax = one_panel(ax if ax is not None else LabelledFigure(figsize=size).subplots(), size, "live_curve")
    ax.set(xlabel="step", ylabel="loss", title="no steps yet")
    if not len(log):
        return figure
    for row in log:
        checked("a line of the log", row, Mapping, remedy="such as {'step': 25, 'loss': 0.5}")
    table = need(pd.DataFrame(list(log)), ("step", "loss"), "live_curve", "train")
    title = f"step {table.step.iloc[-1]:g}: loss {table.loss.iloc[-1]:.3g}"
    ends = [("training", *_losses(ax, table))]
    if "validation_loss" in table and (measured := table.dropna(subset="validation_loss")).size:
        ax.plot(measured.step, measured.validation_loss, color=NO, marker="o")
        title += f", validation {measured.validation_loss.iloc[-1]:.3g}"
        ends.append(("validation", measured.validation_loss.iloc[-1], NO))
    name_ends(ax, ends, 1.0)
    _logarithmic(ax, table.loss)
    ax.set_title(title)
    remember(figure, Drawn("live_curve", {"log": table}, f"Loss of a run against its step. At {title}.", table.tail(1)))
    return figure


def _losses(ax: Axes, rows: pd.DataFrame) -> tuple[float, object]:
    """Draw one line of losses, faint under its running mean where it is long; return where it ends, and its colour."""
    noisy, mean = len(rows) > 40, rows.loss
    (line,) = ax.plot(rows.step, rows.loss, lw=0.8 if noisy else 1.8, alpha=0.35 if noisy else 1.0)
    if noisy:
        mean = rows.loss.rolling(max(len(rows) // 20, 2), center=True, min_periods=1).mean()
        ax.plot(rows.step, mean, color=line.get_color())
    return float(mean.iloc[-1]), line.get_color()


def _logarithmic(ax: Axes, losses: pd.Series) -> None:
    if losses.min() > 0 and losses.max() > 10 * losses.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
