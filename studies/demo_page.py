"""Write the page that shows every figure of a run beside those of the committed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from ..figures.alignment import alignment_curves, before_after
from ..figures.gallery import Entry, write_gallery
from ..figures.gap import gap_closed
from ..figures.layout_bars import layouts_compared
from ..figures.learning import learning_curves
from ..figures.maps import layer_map
from ..figures.plan_drawing import architecture, architectures
from ..figures.plan_results import plan_outcomes
from ..figures.samples import sample_grid
from ..figures.worth.correlation_dots import rule_correlations
from ..figures.worth.maps_of_worth import worth_maps
from ..models.experts.opening import open_expert
from ..probes.plans.bridge_plan import BridgePlan
from ..probes.plans.layouts import lay_out
from . import causal
from .alignment_curves import read_map
from .fused_models import summarise
from .layout_training import layout_folder
from .settings import EXPERTS, FLOOR, METRICS, RESULTS


def write_page(folder: Path, gallery: Path) -> Path:
    """Write every figure of a run, and those of the committed run beside them, as one page.

    Parameters
    ----------
    folder : path
        The folder of the run.
    gallery : path
        The folder of the page.

    Returns
    -------
    path
        The page.
    """
    entries = list(entries_of(folder, "this run"))
    committed = (RESULTS / "gap.csv").exists()
    if committed:
        entries += entries_of(RESULTS, "committed long run")
    page = write_gallery(
        gallery,
        entries,
        tables={
            "scores of this run": pd.read_csv(folder / "scores.csv"),
            "costs of each layout": pd.read_csv(folder / "layout_costs.csv"),
        },
        title="Bridgework: where should two experts be bridged?",
        notes=[
            "This run has a small step budget: it shows that every part works, not what bridges can do. "
            "The figures labelled 'committed long run' are read from result files in the repository.",
            "The share of the gap is 0 for fused models trained with shuffled captions "
            "and 1 for the generation expert that reads captions by its own text route.",
        ],
        headline=headline(RESULTS if committed else folder),
    )
    plt.close("all")
    return page


def headline(folder: Path) -> dict[str, Any]:
    """Return the few numbers that answer the question.

    Parameters
    ----------
    folder : path
        A folder of results.

    Returns
    -------
    dict
        Texts by name, in the order in which the page shows them.
    """
    table = pd.read_csv(folder / "gap.csv")
    plan = BridgePlan.load(folder / "plan.json")
    numbers: dict[str, Any] = {}
    for name, row in summarise(table).drop(FLOOR).iterrows():
        spread = f" [{row.low:.2f}, {row.high:.2f}]" if row.seeds > 1 else ""
        numbers[f"gap closed, {name}"] = f"{row.share:.2f}{spread}"
    numbers["floor and ceiling (scene score)"] = f"{table['floor'].iloc[0]:.2f} and {table['ceiling'].iloc[0]:.2f}"
    numbers["bridges of the alignment plan"] = ", ".join(f"{u}-{g}" for u, g in plan.pairs)
    numbers["run"] = (
        f"{table['seed'].nunique()} seeds, {table['steps'].iloc[0]} steps, {table['each'].iloc[0]} images a skill"
    )
    return numbers


def entries_of(folder: Path, label: str) -> list[Entry]:
    """Draw the figures of one run's folder.

    Parameters
    ----------
    folder : path
        A folder of results.
    label : str
        Whose run it is; "this run" for the one that the page is about.

    Returns
    -------
    list of Entry
        The entries of the gallery.
    """
    prefix = "" if label == "this run" else "committed "
    curves = pd.read_parquet(folder / "curves.parquet")
    plan = BridgePlan.load(folder / "plan.json")
    heat = read_map(folder)
    table = pd.read_csv(folder / "gap.csv")
    of_plans = table[table["plan"] != FLOOR]
    entries: list[Entry] = []

    def add(name: str, figure: Any, caption: str, numbers: pd.DataFrame) -> None:
        entries.append(Entry(prefix + name, figure, caption, numbers, label))

    add("plans and outcomes", plan_outcomes(heat, of_plans, plan), CAPTIONS["outcomes"], of_plans)
    for metric in METRICS:
        rows = curves[(curves["metric"] == metric) & (curves["pass"] == "separate")]
        add(f"alignment curves {metric}", alignment_curves(rows), CAPTIONS["curves"], _short(rows))
    joint = curves[curves["pass"] == "joint"]
    add("joint passes", alignment_curves(joint), CAPTIONS["joint"], _short(joint))
    add("layer map", layer_map(heat, plan), CAPTIONS["map"], heat.reset_index())
    pairs = pd.DataFrame(plan.pairs, columns=["understanding block", "generation block"])
    add("fused model", architecture(plan, EXPERTS), CAPTIONS["architecture"], pairs)
    add("gap closed", gap_closed(of_plans), CAPTIONS["gap"], table)
    again = pd.read_parquet(folder / "fused.parquet")
    before, after = (again[again["when"] == when] for when in ("before", "after"))
    add("before and after", before_after(before, after), CAPTIONS["again"], _short(again))
    samples = pd.read_csv(folder / "samples.csv")
    images = [Image.open(folder / "samples" / f"{number:02d}.png").convert("RGB") for number in samples.index]
    grid = sample_grid(images, samples["caption"].tolist(), samples["correct"].tolist())
    add("samples", grid, CAPTIONS["samples"], samples)
    learning = pd.read_csv(folder / "learning.csv")
    means = learning.groupby(["name", "step"], as_index=False)["loss"].mean()
    add("learning curves", learning_curves(means), CAPTIONS["learning"], learning)
    if (folder / "real.parquet").exists():
        real = pd.read_parquet(folder / "real.parquet")
        add("real experts on emoji", alignment_curves(real), CAPTIONS["real"], _short(real))
    if (folder / "layouts.csv").exists():
        table = pd.read_csv(folder / "layouts.csv")
        plans = [plan_of(folder, layout) for layout in table["layout"]]
        drawn = pd.DataFrame([{"layout": p.layout, "rank": p.rank, "pairs": str(p.pairs)} for p in plans])
        add("layouts", architectures(plans), CAPTIONS["layouts"], drawn)
        add("layouts compared", layouts_compared(table), CAPTIONS["compared"], table)
    if (folder / "layout_learning.csv").exists():
        learning = pd.read_csv(folder / "layout_learning.csv")
        add("layouts learning", learning_curves(learning), CAPTIONS["layout learning"], learning)
    if (folder / "attribution.csv").exists():
        add("causal evidence", causal.draw(folder), CAPTIONS["causal"], pd.read_csv(folder / "conflict.csv"))
    if (folder / "verdict").is_dir():
        worths, ranks = (pd.read_csv(folder / "verdict" / f"{name}.csv") for name in ("worths", "ranks"))
        maps, ranks = pd.read_parquet(folder / "verdict" / "rule_maps.parquet"), ranks[ranks["outcome"] == "loss"]
        add("maps of worth", worth_maps(worths, maps, ranks), CAPTIONS["worth"], worths)
        add("rules and worth", rule_correlations(ranks), CAPTIONS["rules"], ranks)
    return entries


def plan_of(folder: Path, layout: str) -> BridgePlan:
    """Return the plan that a layout was trained with in a run's folder, or the published one for the committed run.

    Parameters
    ----------
    folder : path
        A folder of results.
    layout : str
        The layout.

    Returns
    -------
    BridgePlan
        The plan.
    """
    trained = layout_folder(folder, layout) / "plan.json"
    if trained.exists():
        return BridgePlan.load(trained)
    understanding, generation = (len(open_expert(name).blocks) for name in EXPERTS)
    return lay_out(layout, understanding, generation)


CAPTIONS = {
    "curves": "Image and text of the same layer of the same expert, separate passes, with the permutation null, "
    "a random-weight twin, mismatched captions, and pixel mean x bag of words.",
    "joint": "Image and text in one pass, beside the same pass with mismatched captions: what the two share is token "
    "mixing, not understanding.",
    "map": "Understanding text x generation image on the evidence split; rings are the bridges of the alignment plan.",
    "architecture": "The fused model, drawn from its plan. Text reaches the generator through the bridges alone.",
    "gap": "Scene score on new scenes as the share of the gap between models trained with shuffled captions (0) "
    "and the expert's own text route (1). Alignment is chosen from the layer map; shallow, middle and deep measure "
    "nothing.",
    "outcomes": "Left: the layer map with the bridges of every plan that is the same for all seeds; rings are those of "
    "the alignment plan. Right: what the bridges brought. Shallow, middle and deep are fixed: they have the same "
    "generation blocks, and the first, the middle or the last understanding blocks.",
    "again": "The fused model probed like any subject. In generation, the image stream stands in for text: the caption "
    "is on the bridges and the image is pure noise.",
    "samples": "New scenes drawn by the fused model (alignment plan, first seed), with the checker's verdicts.",
    "learning": "Velocity loss of the bridges, mean over seeds.",
    "layouts": "Each layout as published, drawn from its plan: what the two tasks have in common is green.",
    "compared": "What drawing held-out scenes costs with their captions and with others', and the same model trained "
    "with others'. A layout has learnt to read where blue lies left of the bars. Each has its own number of steps to "
    "convergence, and in the committed run its own number of parameters: this ranks none.",
    "layout learning": "Velocity loss of H, dense and double fusion, with one recipe and as many trained parameters. "
    "In so few steps they need not leave the floor: the committed run is longer.",
    "causal": "What the experts' outputs lose without each layer's tokens, who looks at whom, and where tasks pull the "
    "weights apart.",
    "worth": "What each single bridge is worth on captions that must be read, for every pair of experts whose grid is "
    "complete, beside what each rule said beforehand.",
    "rules": "Rank correlation of each rule's map with the map of worth, and what is left of it beside both depths.",
    "real": "DINOv2-S (patch tokens, each layer) against a text model's last layer, on Noto emoji and their names.",
}


def _short(curves: pd.DataFrame) -> pd.DataFrame:
    return curves.drop(columns=["draws", "pairing"])
