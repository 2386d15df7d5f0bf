"""Open the explorer of a layer map: hover and click cells, move timestep, k and metric, draw bridges."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ...probes.arguments import check_names, checked, file_name
from ...probes.files import write_atomically
from ...probes.metrics import DEFAULT_METRIC, METRICS
from ...probes.plans.bridge_plan import FREE_FIELDS, BridgePlan
from ...probes.plans.choosing import choose_bridges, score_plan
from ...probes.plans.matching import count_blocks
from ...probes.plans.rules import evidence_summary
from ...probes.similarity.inputs import Stack
from ...probes.stimuli.stimulus_set import Stimuli, first_captions
from ..maps import layer_map
from .cost_lines import describe_cost
from .data_bundle import Bundle, describe_view, make_bundle, pack
from .explored_layers import LIVE, ExploredLayers, check_asked, read_layers
from .map_views import MapView, common_neighbours, measure_view, place_of, view_of_map
from .notebook_widget import has_widgets, make_widget
from .page_writing import write_frame, write_page

COSTED = 8  # plans of so many bridges and fewer whose cost a saved page holds
Cost = Callable[[BridgePlan], Any]


def explorer(
    understanding: Stack,
    generation: Stack,
    stimuli: Stimuli | None = None,
    *,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    timestep: float | None = None,
    bridges: int | None = None,
    metrics: Sequence[str] = (LIVE, "cka"),
    maps: Sequence[pd.DataFrame] = (),
    cost: Cost | None = None,
    largest_k: int = 20,
    draws: int = 100,
    permutations: int = 200,
    block: int = 1,
    stream: str = "image",
    **fields: Any,
) -> Explorer:
    """Open the explorer of a layer map, to be shown by a notebook or saved as one static page.

    Hover a cell for its score, 95 % interval and p. Click it for the stimuli on whose neighbours the two layers agree
    most and least. Move the timestep and k, change the metric, drag the rings to other cells: the rule's score, the
    stability and the cost of the plan follow. `Explorer.plan` is the plan that is drawn. All of it works by keyboard.

    Parameters
    ----------
    understanding : LayerFeatures, Tensor, Array or sequence of layers
        The rows of the map, (layer, sample, dim), as of `similarity_map`.
    generation : LayerFeatures, Tensor, Array or sequence of layers
        The columns, (layer, sample, dim'), of the same samples; a sweep over timesteps gets a slider.
    stimuli : Stimuli, optional
        What was shown, for thumbnails and captions. It may hold more stimuli than the features.
    metric, k, timestep : str, int, float
        What is shown first; the timestep is the first one if it is left out.
    bridges : int, optional
        How many bridges the first plan has; 4 if left out, or all where a tower has fewer blocks.
    metrics : sequence of str
        The metrics that a saved page offers. A notebook offers all, and measures them when they are asked for.
    maps : sequence of DataFrame
        Further maps of the same layers, such as those of `complementarity_map` and `descent_map`. The rule that reads
        such a map chooses the plan while it is shown.
    cost : callable, optional
        ``cost(plan)`` returns what the plan costs: a text, a number, numbers by name, or what `estimate_cost` returns.
    largest_k : int
        The largest number of neighbours on the slider.
    draws, permutations, block : int
        As of `choose_bridges` and `map_null`: random halves of the samples for intervals and stability, permutations
        for p, and how many consecutive samples belong together.
    stream, **fields
        Other fields of the plan, as of `choose_bridges`.

    Returns
    -------
    Explorer
        The explorer; as the last line of a cell it is shown.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map`, `map_null` and `choose_bridges`; also stimuli that lack a sample, a metric that these
        layers do not have, a map of other layers, or a cost that is neither text nor number.

    See Also
    --------
    layer_map : The same map as a figure for a paper.
    choose_bridges : The plan with the largest score, and how stable it is.
    map_null : The null that p is from.

    Notes
    -----
    The page holds the nearest samples of every sample in every layer, and computes mutual_knn from them: exactly, for
    any k and timestep, with null, intervals and stability. It holds other metrics as they were measured.

    Examples
    --------
    >>> explorer = figures.explorer(seen["text"], made["image"], stimuli)
    >>> explorer  # in one cell
    >>> explorer.plan  # in the next
    >>> explorer.save("explorer.html")  # one file, without a kernel
    >>> figures.explorer(seen["text"], made["image"], cost=lambda plan: f"{len(plan.pairs)} bridges")
    """
    check_names("field of a plan", fields, FREE_FIELDS)
    check_asked((metric, *checked("metrics", metrics, Sequence[str])), k, largest_k, bridges, stream, stimuli, maps)
    explored = read_layers(understanding, generation, largest_k, draws, permutations, block)
    if stimuli is not None and stimuli.groups:
        stimuli = first_captions(stimuli)
    first = explored.check_choice((metric, *metrics), k, timestep, None if stimuli is None else stimuli.ids)
    views = [view_of_map(explored, heat) for heat in maps]
    fields["stream"] = stream
    return Explorer(explored, stimuli, (metric, first, int(k)), bridges, metrics, views, cost, fields)


class Explorer:
    """Show a layer map that can be touched, and hand back the plan that is drawn on it. `explorer` makes it.

    Attributes
    ----------
    state : dict
        What is shown: metric, timestep (its number), k, pairs, byRule, and cell (row, column) or None.

    See Also
    --------
    explorer : Makes objects of this class, and checks what they show.
    """

    def __init__(
        self,
        explored: ExploredLayers,
        stimuli: Stimuli | None,
        first: tuple[str, int, int],
        bridges: int | None,
        metrics: Sequence[str],
        maps: Sequence[MapView],
        cost: Cost | None,
        fields: dict[str, Any],
    ) -> None:
        self._explored, self._stimuli, self._metrics = explored, stimuli, tuple(metrics)
        self._maps, self._cost, self._fields, self._first_k = tuple(maps), cost, fields, first[2]
        self._views: dict[tuple[str, int | None, int | None], MapView] = {
            (view.metric, None, None): view for view in maps
        }
        self.state: dict[str, Any] = {"metric": first[0], "timestep": first[1], "k": first[2], "cell": None}
        count = min(4, *count_blocks(self._view().heat)) if bridges is None else bridges
        plan = self._choose(self._view(), count)
        self.state |= {"pairs": [list(pair) for pair in plan.pairs], "byRule": True}
        self._costs = {} if cost is None else {_key(plan.pairs): describe_cost(cost(plan))}

    def __repr__(self) -> str:
        """Return what is shown, in one line."""
        explored = self._explored
        size = f"{len(explored.rows)} x {len(explored.columns)} layers, {explored.samples} samples"
        return f"Explorer({size}, {self.state['metric']}, {len(self.state['pairs'])} bridges)"

    @property
    def plan(self) -> BridgePlan:
        """The plan that is drawn: the rule's, or one with the rule "by hand" and the score that the rule gives it."""
        return self._plan_of(self._view(), [(int(u), int(g)) for u, g in self.state["pairs"]])

    @property
    def heat(self) -> pd.DataFrame:
        """The layer map that is shown, as `similarity_map` returns it."""
        return self._view().heat.copy()

    def agreement(self, understanding: str | int | None = None, generation: str | int | None = None) -> pd.DataFrame:
        """Return how far two layers agree on the neighbours of each stimulus.

        Parameters
        ----------
        understanding, generation : str or int, optional
            Names of two layers; those of the cell that was clicked if they are left out.

        Returns
        -------
        DataFrame
            One row a stimulus, the least share first: id, text (where there are stimuli) and share, of its k nearest
            in common.

        Raises
        ------
        ValueError
            If no cell was clicked, or if there is no such layer.
        """
        explored, cell = self._explored, self.state["cell"]
        if understanding is None and generation is None and cell is None:
            raise ValueError("no cell was clicked: click one, or name an understanding and a generation layer")
        row, column = cell or (None, None)
        row = row if understanding is None else place_of(explored.rows, understanding, "understanding")
        column = column if generation is None else place_of(explored.columns, generation, "generation")
        if row is None or column is None:
            raise ValueError("name both layers, an understanding and a generation layer")
        table = pd.DataFrame({"id": explored.ids})
        if self._stimuli is not None:
            texts = dict(zip(self._stimuli.ids, self._stimuli.texts))
            table["text"] = [texts[id] for id in explored.ids]
        table["share"] = common_neighbours(explored, self.state["timestep"], row, column, self.state["k"])
        return table.sort_values("share", kind="stable", ignore_index=True)

    def figure(self) -> Figure:
        """Draw what is shown as a figure.

        Returns
        -------
        Figure
            `layer_map` of the map and the plan.
        """
        return layer_map(self._view().heat, self.plan)

    def save(self, path: str | os.PathLike[str], title: str = "Layer map") -> Path:
        """Write the explorer as one HTML file, which needs neither a kernel nor a network.

        The page offers the metrics that `explorer` was given and the maps that were handed over. It can measure
        mutual_knn for any k; other metrics of neighbours keep the k that the explorer began with. A plan leaves it as
        a file that `BridgePlan.load` reads.

        Parameters
        ----------
        path : str or path
            The file.
        title : str
            The title of the page.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        TypeError
            The path is no path, or the title no text.
        ValueError
            The path or the title is empty or holds half of a character.
        OSError
            The file cannot be written.
        """
        file = file_name("path", path)
        text = write_page(self._saved_bundle(), checked("title", title, str, filled=True))
        write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return file

    @cached_property
    def widget(self) -> Any:
        """The widget of a notebook, made at first use; None where anywidget is not installed."""
        if not has_widgets():
            return None
        measured = [view for view in self._views.values() if view.metric != LIVE]
        offers = self._explored.offers(self._first_k)
        bundle = self._bundle(measured, [self._about(name, None) for name in offers], self._costs)
        return make_widget(bundle, self.state, self._keep, self._answer)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """Return the widget, or a frame with the static page; beside it the figure, for readers without either."""
        if self.widget is None:
            shown: dict[str, Any] = {"text/html": write_frame(write_page(self._saved_bundle(), "Layer map"))}
            about: dict[str, Any] = {}
        else:
            made = self.widget._repr_mimebundle_(include=include, exclude=exclude)
            shown, about = made if isinstance(made, tuple) else (made or {}, {})
        picture, figure = io.BytesIO(), self.figure()
        figure.savefig(picture, format="png", dpi=150)
        plt.close(figure)
        return dict(shown) | {"text/plain": repr(self), "image/png": picture.getvalue()}, about

    # What is measured

    def _view(self, halves: bool = False) -> MapView:
        """Return the view that is shown, measured once."""
        return self._measured(self.state["metric"], self.state["timestep"], self.state["k"], halves)

    def _measured(self, metric: str, timestep: int, k: int, halves: bool) -> MapView:
        if (metric, None, None) in self._views:
            return self._views[metric, None, None]
        key = metric, timestep, k if METRICS[metric].neighbours else None
        known = self._views.get(key)
        if known is None or (halves and known.halves is None and metric != LIVE):
            self._views[key] = measure_view(self._explored, metric, timestep, k, halves and metric != LIVE)
        return self._views[key]

    def _choose(self, view: MapView, bridges: int) -> BridgePlan:
        return choose_bridges(view.heat, view.rule, bridges, **self._fields)

    def _plan_of(self, view: MapView, pairs: Sequence[tuple[int, int]]) -> BridgePlan:
        best = self._choose(view, len(pairs))
        if best.pairs == tuple(pairs):
            return best
        summary = evidence_summary(view.heat, view.rule)
        depths = best.understanding_layers, best.generation_layers
        stream, others = self._fields["stream"], {name: self._fields[name] for name in self._fields if name != "stream"}
        drawn = BridgePlan(tuple(pairs), stream, "by hand", summary, *depths, **others)
        score = score_plan(drawn, view.heat, view.rule)
        return replace(drawn, score=score if np.isfinite(score) else None)

    # What the page gets

    def _about(self, metric: str, fixed_k: int | None) -> dict[str, Any]:
        """Return what the page is told of a metric."""
        neighbours = metric in METRICS and METRICS[metric].neighbours
        fixed = fixed_k if neighbours and metric != LIVE else None
        return {"name": metric, "neighbours": neighbours, "timed": metric in METRICS, "fixedK": fixed}

    def _bundle(self, views: Sequence[MapView], metrics: list[dict[str, Any]], costs: dict[str, str]) -> Bundle:
        metrics = metrics + [self._about(view.metric, None) for view in self._maps]
        plan = vars(self._choose(self._view(), 1))
        start = {
            "start": self.state,
            "metrics": metrics,
            "plan": {name: plan[name] for name in plan if name not in ("pairs", "evidence", "score", "rule")},
            "costs": costs,
            "costed": self._cost is not None,
        }
        return make_bundle(self._explored, [self._view(), *views], start, self._stimuli)

    def _saved_bundle(self) -> Bundle:
        explored, first, k = self._explored, self.state["metric"], self._first_k
        names = list(dict.fromkeys((LIVE, *self._metrics, *([first] if first in METRICS else []))))
        wanted = [(name, t) for name in names if name != LIVE for t in range(len(explored.timesteps))]
        bar = tqdm(wanted, desc="measure the page's maps", leave=False, disable=None)
        views = [self._measured(name, t, k, True) for name, t in bar]
        costs = dict(self._costs)
        if self._cost is not None:
            for count in tqdm(
                range(1, min(COSTED, *count_blocks(self._view().heat)) + 1), "estimate costs", leave=False
            ):
                costs[str(count)] = describe_cost(self._cost(self._choose(self._view(), count)))
        state = dict(self.state)
        if state["metric"] != LIVE and state["metric"] in METRICS and METRICS[state["metric"]].neighbours:
            state["k"] = k
        bundle = self._bundle([*views, *self._maps], [self._about(name, k) for name in names], costs)
        bundle.header["start"] = state
        return bundle

    # What the page asks

    def _keep(self, state: dict[str, Any]) -> None:
        self.state = dict(state)

    def _answer(self, question: Mapping[str, Any], send: Callable[..., None]) -> None:
        """Measure what the page asks for: first the map with its null, then its halves, which take longer."""
        try:
            if question["ask"] == "cost":
                pairs = [(int(u), int(g)) for u, g in question["pairs"]]
                if self._cost is not None:
                    send({"kind": "cost", "pairs": pairs, "text": self._cost_of(pairs)})
                return
            asked = question["metric"], question["timestep"], question["k"]
            for halves in (False, True):
                view = self._measured(*asked, halves)
                meta, arrays = describe_view(view, "view")
                listed, data = pack(arrays)
                send({"kind": "map", "view": {**meta, "timestep": asked[1]}, "arrays": listed}, [data])
                if view.halves is not None:
                    return
        except (ValueError, TypeError, RuntimeError) as error:
            send({"kind": "failed", "text": str(error)})

    def _cost_of(self, pairs: Sequence[tuple[int, int]]) -> str:
        assert self._cost is not None
        if (key := _key(pairs)) not in self._costs:
            try:
                self._costs[key] = describe_cost(self._cost(self._plan_of(self._view(), pairs)))
            except (ValueError, TypeError, RuntimeError) as error:
                return f"not estimated, {error}"
        return self._costs[key]


def _key(pairs: Sequence[Sequence[int]]) -> str:
    """Return the pairs as the page's JSON has them."""
    return json.dumps([list(pair) for pair in pairs], separators=(",", ":"))
