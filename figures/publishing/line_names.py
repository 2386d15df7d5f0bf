"""Write names where lines end, and legends under what they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import ScaledTranslation

from .page import current_page, points, wrapped

END = "name at the end of a line"


def name_ends(ax: Axes, ends: Sequence[tuple[str, float, object]], inches: float) -> None:
    """Write the names of lines at the right edge of axes, each at the height where its line ends.

    `spread_names` moves those apart that would lie on each other, once the size of the axes is known.

    Parameters
    ----------
    ax : Axes
        The axes.
    ends : sequence of (str, float, colour)
        The name of each line, the y where it ends, and its colour.
    inches : float
        The width that names may take on paper.
    """
    size = points(8)
    for name, height, colour in ends:
        ax.annotate(
            wrapped(name, inches, size, 24), (1, height), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", ha="left", fontsize=size, color=colour, annotation_clip=False,
            linespacing=1.0, gid=END,
        )  # fmt: skip


def spread_names(figure: Figure) -> bool:
    """Move names at the ends of lines apart where they lie on each other.

    Parameters
    ----------
    figure : Figure
        A figure that was laid out already.

    Returns
    -------
    bool
        Whether it has such names.
    """
    found = False
    for ax in figure.axes:
        names = [text for text in ax.texts if isinstance(text, Annotation) and text.get_gid() == END]
        found |= bool(names)
        heights = {name: float(ax.transData.transform((0, name.xy[1]))[1]) for name in names}
        names.sort(key=heights.__getitem__)
        boxes = [name.get_window_extent().height + 1 for name in names]
        for name, height in zip(names, apart([heights[name] for name in names], boxes), strict=True):
            name.xyann = (4, (height - heights[name]) * 72 / figure.dpi)
    return found


def apart(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Return the places nearest to those asked for at which things of given sizes do not lie on each other.

    Parameters
    ----------
    places : sequence of float
        The wanted centres, ascending.
    sizes : sequence of float
        How much room each takes.

    Returns
    -------
    list of float
        The centres. Things that would lie on each other stand as one group, as near to their wanted centres as it can.

    Examples
    --------
    >>> apart([0, 1, 9], [2, 2, 2])
    [-0.5, 1.5, 9.0]
    """
    groups: list[tuple[float, list[float]]] = []  # (centre, sizes)
    for place, size in zip(places, sizes, strict=True):
        centre, members = float(place), [float(size)]
        while groups and groups[-1][0] + sum(groups[-1][1]) / 2 > centre - sum(members) / 2:
            below, lower = groups.pop()
            # Least squares: the mean of both centres, each shifted by half of what the other group takes.
            shifted = len(lower) * (below + sum(members) / 2) + len(members) * (centre - sum(lower) / 2)
            centre, members = shifted / (len(lower) + len(members)), lower + members
        groups.append((centre, members))
    found = []
    for centre, members in groups:
        edge = centre - sum(members) / 2
        for size in members:
            found.append(edge + size / 2)
            edge += size
    return found


def legend_below(figure: Figure, found: Mapping[str, Artist], columns: int) -> None:
    """Add one legend under all panels, and make the figure higher by what it takes.

    Parameters
    ----------
    figure : Figure
        The figure.
    found : mapping of str to Artist
        What stands for each label.
    columns : int
        The columns of the legend on a screen. On paper there are as many as fit.
    """
    columns = max(1, min(len(found), columns))
    options = {"loc": "outside lower center"}
    legend = figure.legend(list(found.values()), list(found), ncols=columns, **options)
    if current_page():
        for columns in range(min(len(found), 5), 0, -1):
            legend.remove()
            legend = figure.legend(list(found.values()), list(found), ncols=columns, **options)
            if legend.get_window_extent().width < figure.bbox.width - 6:
                break
    line = 0.14 if current_page() else 0.19
    figure.set_figheight(figure.get_figheight() + line * -(-len(found) // columns))


def legend_under(ax: Axes, found: Mapping[str, Artist], columns: int) -> None:
    """Add the legend of one panel under the label of its x axis.

    Parameters
    ----------
    ax : Axes
        The panel.
    found : mapping of str to Artist
        What stands for each label.
    columns : int
        The columns of the legend.
    """
    down = ScaledTranslation(0, -points(31) / 72, ax.figure.dpi_scale_trans)
    room = ax.get_window_extent().width / ax.figure.dpi / columns - 0.2
    ax.legend(
        list(found.values()), [wrapped(label, room, points(8)) for label in found], ncols=columns, loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes + down, borderaxespad=0,
    )  # fmt: skip
