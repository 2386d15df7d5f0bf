"""Write the page that shows every figure of a run beside those of the committed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from ...figures.alignment import alignment_curves, before_after
from ...figures.gallery import OWN, Entry, write_gallery
from ...figures.gap import gap_closed
from ...figures.layout_bars import layouts_compared
from ...figures.learning import learning_curves
from ...figures.maps import layer_map
from ...figures.plan_drawing import architecture, architectures
from ...figures.plan_results import plan_outcomes
from ...figures.samples import sample_grid
from ...figures.worth.correlation_dots import rule_correlations
from ...figures.worth.maps_of_worth import worth_maps
from ...models.experts.opening import open_expert
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layouts import lay_out
from ...probes.similarity.intervals import mean_interval
from .. import causal
from ..alignment_curves import read_map
from ..fused_models import summarise
from ..settings import EXPERTS, FLOOR, METRICS, RESULTS
from .half_trained import AFTER, BEFORE, CEILING, CLOSED, condition_folder, effect_table

COMMITTED_RUN = "committed run"


def write_page(folder: Path, gallery: Path) -> Path:
    """Write every figure of the demo, and those of the committed run beside them, as one page.

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
    entries = [*entries_of_effect(folder), *entries_of(folder, OWN)]
    committed = (RESULTS / "gap.csv").exists()
    if committed:
        entries += entries_of(RESULTS, COMMITTED_RUN)
    page = write_gallery(
        gallery,
        entries,
        tables={"what training on brought": effect_table(folder)},
        title="Bridgework: where should two experts be bridged?",
        notes=[
            "Bridges that were trained for part of a run are shipped with the code. This run has trained them on for a "
            "few minutes. The loss of held-out scenes shows first what that brings. The share of right drawings "
            "follows slowly, and a few minutes need not move it beyond its interval.",
            f"Figures with the badge '{COMMITTED_RUN}' are drawn from result files in the repository: every plan, "
            "trained to the end with several seeds.",
        ],
        headline=headline(folder) | (committed_headline(RESULTS) if committed else {}),
    )
    plt.close("all")
    return page


def headline(folder: Path) -> dict[str, Any]:
    """Return the few numbers that say what training on brought.

    Parameters
    ----------
    folder : Path
        The folder of the run.

    Returns
    -------
    dict
        Texts by name, in the order in which the page shows them.
    """
    table = effect_table(folder).set_index("model")
    images = table["images"].iloc[0]

    def score(name: str) -> str:
        row = table.loc[name]
        return f"{row['score']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"

    losses = [pd.read_csv(condition_folder(folder, name) / "losses.csv")["loss"] for name in (BEFORE, AFTER)]
    fell, low, high = map(float, mean_interval((losses[0] - losses[1]).to_numpy()))
    return {
        f"this run: fall of the loss of {table['scenes'].iloc[0]} held-out scenes by training on": (
            f"{fell:.4f} [{low:.4f}, {high:.4f}]"
        ),
        "this run: that loss, as shipped and after training on": (
            f"{table.loc[BEFORE, 'loss']:.4f}, {table.loc[AFTER, 'loss']:.4f}"
        ),
        "this run: that loss at the floor and at the ceiling": (
            f"{table.loc[CLOSED, 'loss']:.4f}, {table.loc[CEILING, 'loss']:.4f}"
        ),
        f"this run: drawings of {images} new scenes that are right, with the bridges as shipped": score(BEFORE),
        "this run: the same drawings after training on": score(AFTER),
        "this run: floor, with closed bridges": score(CLOSED),
        "this run: ceiling, the generator with its own text route": score(CEILING),
    }


def committed_headline(folder: Path) -> dict[str, Any]:
    """Return the few numbers of the committed run, as `headline` does."""
    table = pd.read_csv(folder / "gap.csv")
    numbers: dict[str, Any] = {}
    for name, row in summarise(table).drop(FLOOR).iterrows():
        spread = f" [{row.low:.2f}, {row.high:.2f}]" if row.seeds > 1 else ""
        numbers[f"{COMMITTED_RUN}: share of the gap closed, {name}"] = f"{row.share:.2f}{spread}"
    numbers[f"{COMMITTED_RUN}: how long"] = (
        f"{table['seed'].nunique()} seeds, {table['steps'].iloc[0]} steps, {table['each'].iloc[0]} images a skill"
    )
    return numbers


def entries_of_effect(folder: Path) -> list[Entry]:
    """Draw what training on brought: the gap, the loss, and the same captions drawn before and after.

    Parameters
    ----------
    folder : Path
        The folder of the run.

    Returns
    -------
    list of Entry
        The entries of the gallery.
    """
    table = effect_table(folder)
    grown = table[table["model"].isin((BEFORE, AFTER))].rename(columns={"model": "plan"}).assign(seed=0)
    entries = [Entry("gap closed", gap_closed(grown), CAPTIONS["effect"], table, OWN)]
    losses = learning(folder, table)
    entries.append(Entry("learning curves", learning_curves(losses), CAPTIONS["training on"], losses, OWN))
    for name in (BEFORE, AFTER):
        shown = condition_folder(folder, name)
        samples = pd.read_csv(shown / "samples.csv")
        entries.append(Entry("samples", _grid(shown, samples), CAPTIONS[name], samples, f"{OWN}, {name}"))
    if (RESULTS / "samples.csv").exists():
        samples = pd.read_csv(RESULTS / "samples.csv")
        known = samples[samples["caption"].isin(entries[-1].numbers["caption"])]
        samples = known if len(known) else samples
        entries.append(Entry("samples", _grid(RESULTS, samples), CAPTIONS["samples"], samples, COMMITTED_RUN))
    return entries


def learning(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the loss of held-out scenes against the step, with floor and ceiling: step, loss, name."""
    log = pd.read_csv(folder / "learning.csv")
    loss = table.set_index("model")["loss"]
    checked = log.dropna(subset="validation_loss")
    steps = [int(log["step"].iloc[0]), *checked["step"].astype(int)]
    lines = {"bridges": [loss[BEFORE], *checked["validation_loss"]]}
    lines |= {f"floor: {CLOSED}": [loss[CLOSED]] * len(steps), f"ceiling: {CEILING}": [loss[CEILING]] * len(steps)}
    return pd.concat([pd.DataFrame({"step": steps, "loss": losses, "name": name}) for name, losses in lines.items()])


def _grid(folder: Path, samples: pd.DataFrame) -> Any:
    """Draw samples of a folder, by their numbers in samples/."""
    images = [Image.open(folder / "samples" / f"{number:02d}.png").convert("RGB") for number in samples.index]
    return sample_grid(images, samples["caption"].tolist(), samples["correct"].tolist())


def entries_of(folder: Path, label: str) -> list[Entry]:
    """Draw the figures of one run's folder, as far as it has their numbers.

    Parameters
    ----------
    folder : path
        A folder of results.
    label : str
        Whose run it is.

    Returns
    -------
    list of Entry
        The entries of the gallery.
    """
    curves = pd.read_parquet(folder / "curves.parquet")
    plan = BridgePlan.load(folder / "plan.json")
    heat = read_map(folder)
    entries: list[Entry] = []

    def add(name: str, figure: Any, caption: str, numbers: pd.DataFrame) -> None:
        entries.append(Entry(name, figure, caption, numbers, label))

    for metric in METRICS:
        rows = curves[(curves["metric"] == metric) & (curves["pass"] == "separate")]
        add(f"alignment curves {metric}", alignment_curves(rows), CAPTIONS["curves"], _short(rows))
    joint = curves[curves["pass"] == "joint"]
    add("joint passes", alignment_curves(joint), CAPTIONS["joint"], _short(joint))
    add("layer map", layer_map(heat, plan), CAPTIONS["map"], heat.reset_index())
    again = pd.read_parquet(folder / "fused.parquet")
    before, after = (again[again["when"] == when] for when in ("before", "after"))
    add("before and after", before_after(before, after), CAPTIONS["again"], _short(again))
    if (folder / "real.parquet").exists():
        real = pd.read_parquet(folder / "real.parquet")
        add("real experts on emoji", alignment_curves(real), CAPTIONS["real"], _short(real))
    if (folder / "gap.csv").exists():
        table = pd.read_csv(folder / "gap.csv")
        of_plans = table[table["plan"] != FLOOR]
        pairs = pd.DataFrame(plan.pairs, columns=["understanding block", "generation block"])
        add("fused model", architecture(plan, EXPERTS), CAPTIONS["architecture"], pairs)
        add("gap closed", gap_closed(of_plans), CAPTIONS["gap"], table)
        log = pd.read_csv(folder / "learning.csv")
        means = log.groupby(["name", "step"], as_index=False)["loss"].mean()
        add("learning curves", learning_curves(means), CAPTIONS["learning"], log)
        add("plans and outcomes", plan_outcomes(heat, of_plans, plan), CAPTIONS["outcomes"], of_plans)
    if (folder / "layouts.csv").exists():
        table = pd.read_csv(folder / "layouts.csv")
        plans = [plan_of(layout) for layout in table["layout"]]
        drawn = pd.DataFrame([{"layout": p.layout, "rank": p.rank, "pairs": str(p.pairs)} for p in plans])
        add("layouts", architectures(plans), CAPTIONS["layouts"], drawn)
        add("layouts compared", layouts_compared(table), CAPTIONS["compared"], table)
    if (folder / "attribution.csv").exists():
        add("causal evidence", causal.draw(folder), CAPTIONS["causal"], pd.read_csv(folder / "conflict.csv"))
    if (folder / "verdict").is_dir():
        worths, ranks = (pd.read_csv(folder / "verdict" / f"{name}.csv") for name in ("worths", "ranks"))
        maps, ranks = pd.read_parquet(folder / "verdict" / "rule_maps.parquet"), ranks[ranks["outcome"] == "loss"]
        add("maps of worth", worth_maps(worths, maps, ranks), CAPTIONS["worth"], worths)
        add("rules and worth", rule_correlations(ranks), CAPTIONS["rules"], ranks)
    return entries


def plan_of(layout: str) -> BridgePlan:
    """Return the published plan of a layout for our experts.

    Parameters
    ----------
    layout : str
        The layout.

    Returns
    -------
    BridgePlan
        The plan.
    """
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
    "samples": "The same captions from the same noise, after the whole committed run (alignment plan, first seed).",
    "learning": "Velocity loss of the bridges, mean over seeds.",
    "layouts": "Each layout as published, drawn from its plan: what the two tasks have in common is green.",
    "compared": "What drawing held-out scenes costs with their captions and with others', and the same model trained "
    "with others'. A layout has learnt to read where blue lies left of the bars. Each has its own number of steps to "
    "convergence and its own number of parameters: this ranks none.",
    "effect": "Scene score on new scenes as the share of the gap between the model with closed bridges (0), which "
    "draws without any text, and the expert's own text route (1). One seed; the table below has the intervals.",
    "training on": "Loss of held-out scenes while the shipped bridges are trained on, between the loss without any "
    "text and that of the generator's own text route. The same scenes, noise and times every time.",
    BEFORE: "New scenes drawn with the bridges as they are shipped, with the checker's verdicts.",
    AFTER: "The same captions from the same noise, after this run has trained the bridges on.",
    "causal": "What the experts' outputs lose without each layer's tokens, who looks at whom, and where tasks pull the "
    "weights apart.",
    "worth": "What each single bridge is worth on captions that must be read, for every pair of experts whose grid is "
    "complete, beside what each rule said beforehand.",
    "rules": "Rank correlation of each rule's map with the map of worth, and what is left of it beside both depths.",
    "real": "DINOv2-S (patch tokens, each layer) against a text model's last layer, on Noto emoji and their names.",
}


def _short(curves: pd.DataFrame) -> pd.DataFrame:
    return curves.drop(columns=["draws", "pairing"])
