"""Run the demo and the studies whose results are committed: the same steps with different budgets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..figures.alignment import alignment_curves
from ..figures.plan_results import plan_outcomes
from ..models.evaluation.scores import evaluate
from ..models.experts.downloads import weights
from ..models.experts.opening import open_expert
from ..models.training.recipe import Recipe
from ..probes.files import read_parquet, write_atomically, write_csv, write_folder
from ..probes.plans.bridge_plan import BridgePlan
from . import layout_training, smollm2_emoji
from .alignment_curves import measure, read_map
from .causal import measure_causal
from .claims import claim_report, claim_runs, trunk_curves
from .editing import edit_claims, edit_runs
from .effect.demo_page import write_page
from .effect.half_trained import measure_after, measure_before, measure_ends, probe_trained, train_half, train_on
from .effect.numbered_steps import Step, run_steps
from .fused_models import fuse, fused_folder, gap, probe_again
from .plan_stability import measure_plan_stability
from .real_costs import estimate_real_costs
from .real_experts import measure_real, measure_sets
from .settings import COMMITTED, DEMO, FLOOR, METRICS, RESULTS, RUNS
from .verdict import outcomes, report


def demo(folder: Path = RUNS / "demo", gallery: Path = Path("figures/gallery")) -> Path:
    """Run the main job on the bundled data within minutes, and write the page that shows it.

    Half-trained bridges are shipped. They are trained on, and drawings of the same captions from the same noise show
    what that brought. The page shows the committed longer run beside this one. A run that was stopped resumes when it
    is started again.

    Parameters
    ----------
    folder : Path, optional
        The folder of the run.
    gallery : Path, optional
        The folder of the page.

    Returns
    -------
    Path
        The page, index.html.

    See Also
    --------
    reproduce : Runs the studies in full, whose numbers are committed.
    """
    run_steps(demo_steps(folder))
    page = write_page(folder, gallery)
    print(f"open {page}", flush=True)
    return page


def demo_steps(folder: Path) -> list[Step]:
    """Return the steps of the demo, without the page."""
    steps = [
        Step("alignment curves and the layer map of both experts", 100, lambda: measure(folder, DEMO)),
        Step(
            "the floor (bridges closed) and the ceiling (own text route)",
            70,
            lambda: measure_ends(folder, DEMO),
        ),
        Step("drawing with the half-trained bridges, as they are shipped", 40, lambda: measure_before(folder, DEMO)),
        Step("training the bridges", 80, lambda: train_on(folder, DEMO)),
        Step("drawing the same captions again", 40, lambda: measure_after(folder, DEMO)),
        Step("alignment curves of the fused model", 30, lambda: probe_trained(folder, DEMO)),
    ]
    if all(_fetched(name) for name in weights.WEIGHTS):
        steps.append(Step("real experts on emoji", 60, lambda: measure_real(folder, samples=128)))
    return steps


def reproduce(names: Sequence[str] = (), runs: Path = RUNS, results: Path = RESULTS) -> None:
    """Run studies in full and write the result files that are committed.

    What a stopped run has left in `runs` is not measured again. All studies together take some hours.

    Parameters
    ----------
    names : sequence of str, optional
        Names in `STUDIES`; all studies if left out. "causal" reads the fused models that "scenes" leaves in `runs`.
    runs : Path, optional
        The folder that the studies work in.
    results : Path, optional
        The folder that the result files are copied to.

    Raises
    ------
    ValueError
        A study is unknown.
    FileNotFoundError
        Weights or pictures are not fetched, or a study has not written one of its files.

    See Also
    --------
    demo : Shows the main result within minutes, by a shorter run.
    """
    if unknown := [name for name in names if name not in STUDIES]:
        raise ValueError(f"unknown study {unknown[0]!r}: expected one of {', '.join(STUDIES)}")
    for name in names or STUDIES:
        study = STUDIES[name]
        print(f"{name}: {study.about}", flush=True)
        study.run(runs)
        for file in study.files:
            source, target = runs / study.folder / file, results / file
            if not source.exists():
                raise FileNotFoundError(f"the study {name} has not written {source}")
            if source.is_dir():
                write_folder(target, partial(shutil.copytree, source, dirs_exist_ok=True))
            else:
                write_atomically(target, partial(shutil.copy, source))


def run_scenes(runs: Path) -> None:
    """Measure, fuse and score the shipped experts on scenes, with the budget of the committed run."""
    folder = runs / "committed"
    measure(folder, COMMITTED)
    draw_curves(folder)
    score_experts(folder)
    fuse(folder, COMMITTED)
    gap(folder, COMMITTED)
    draw_outcomes(folder)
    probe_again(folder, COMMITTED)
    collect(folder)


def run_half_trained(runs: Path) -> None:
    """Train the bridges that the demo starts from."""
    train_half(runs / "half_trained")


def run_stability(runs: Path) -> None:
    """Choose plans from many sets of evidence scenes."""
    measure_plan_stability(runs / "committed")


def run_costs(runs: Path) -> None:
    """Estimate what two large experts take."""
    estimate_real_costs(runs / "costs")


def run_real(runs: Path) -> None:
    """Measure real experts on real pictures."""
    measure_real(runs / "committed", samples=512)
    measure_sets(runs / "committed")


def run_causal(runs: Path) -> None:
    """Measure what the experts' tasks rest on, and what each bridge of the committed fused models carries."""
    measure_causal(runs / "causal", runs / "committed")


def run_layouts(runs: Path) -> None:
    """Draw every layout, and train each from one recipe."""
    folder = runs / "layouts"
    layout_training.draw(folder)
    layout_training.compare(Recipe.load("scenes"), folder, folder / "layouts.csv")


def run_emoji(runs: Path) -> None:
    """Fuse SmolLM2-135M with the generator of emoji, by two plans."""
    smollm2_emoji.fuse_emoji(runs / "smollm2_emoji", runs / "smollm2_emoji")


def run_verdict(runs: Path) -> None:
    """Train single bridges and plans of every pair of experts, and judge the rules, as the study's protocol.md says."""
    outcomes.run_all(runs / "verdict")
    report.write_report(runs / "verdict")


def run_editing(runs: Path) -> None:
    """Train editing models of every layout with each kind of source tokens, and judge them, as protocol.md says."""
    edit_runs.run_edits(runs / "editing")
    edit_claims.write_edit_report(runs / "editing")


def run_claims(runs: Path) -> None:
    """Train layouts on equal terms, and judge the claims of four papers, as the study's protocol.md says."""
    folder = runs / "claims"
    claim_runs.run_missing(folder)
    claim_runs.gather(folder)
    trunk_curves.measure_curves(folder)
    claim_report.write_report(folder)


class Study(NamedTuple):
    """Hold a study whose results are committed.

    Attributes
    ----------
    about : str
        What it does, in one sentence.
    run : callable
        Runs it in the folder of all runs, and resumes what was stopped.
    folder : str
        Where it leaves its files, below the folder of all runs.
    files : tuple of str
        The files and folders that it writes, each below `folder` and, committed, below studies/results.
    """

    about: str
    run: Callable[[Path], None]
    folder: str
    files: tuple[str, ...]


STUDIES = {
    "scenes": Study(
        "alignment, bridge plans, fused models and their scores on scenes; one to two hours",
        run_scenes,
        "committed",
        (
            "curves.parquet", "alignment_curves.png", "map.csv", "map.json", "plan.json", "shapes.json", "gap.csv",
            "plan_outcomes.png",
            "fused.parquet", "scores.csv", "learning.csv", "samples.csv", "samples", "experts.csv",
        ),
    ),
    "half-trained": Study(
        "bridges of the alignment plan, trained half-way, from which the demo starts; some minutes",
        run_half_trained,
        ".",
        ("half_trained",),
    ),
    "stability": Study(
        "how far the plan of the rule alignment depends on the scenes and on the metric; some minutes",
        run_stability,
        "committed",
        ("plan_stability.csv",),
    ),
    "costs": Study(
        "memory and GPU hours of two large experts, computed from their configs; some minutes",
        run_costs,
        "costs",
        ("real_costs.csv", "real_costs_lora.csv"),
    ),
    "real": Study(
        "DINOv2-S against two text models on four picture sets; fetched weights and pictures are needed",
        run_real,
        "committed",
        ("real.parquet", "real_curves.parquet", "real_sink.parquet", "real_maps.csv"),
    ),
    "causal": Study(
        "what the experts' tasks rest on, and what each bridge of the study scenes carries; half an hour",
        run_causal,
        "causal",
        ("attribution.csv", "attention.csv", "conflict.csv", "causal_evidence.png", "links.csv", "link_drift.csv"),
    ),
    "layouts": Study(
        "every layout, trained from one recipe with its captions and with those of other scenes; some hours",
        run_layouts,
        "layouts",
        ("layouts.csv", "layouts.png"),
    ),
    "emoji": Study(
        "SmolLM2-135M fused with a generator of emoji, by two plans; half an hour; fetched weights are needed",
        run_emoji,
        ".",
        tuple(
            f"smollm2_emoji/{file}"
            for file in (
                "map.csv", "alignment.json", "middle.json", "learning.csv", "losses.csv", "likeness.csv", "samples.png",
            )
        ),
    ),
    "verdict": Study(
        "what bridges are worth on captions that must be read; nine hours of one core; fetched weights are needed",
        run_verdict,
        ".",
        ("verdict/kinds.csv", "verdict/outcomes.parquet", *(f"verdict/{file}" for file in report.FILES)),
    ),
    "claims": Study(
        "layouts of one trunk and of two towers on equal terms; eight hours of one core; fetched weights are needed",
        run_claims,
        ".",
        tuple(f"claims/{file}" for file in (claim_runs.COMMITTED.name, *trunk_curves.FILES, *claim_report.FILES)),
    ),
    "editing": Study(
        "edits of scenes by instructions, each layout with each kind of source tokens; three hours of one core",
        run_editing,
        ".",
        tuple(f"editing/{file}" for file in edit_claims.FILES),
    ),
}  # fmt: skip


def draw_curves(folder: Path) -> None:
    """Draw the alignment curves of both experts with their controls: alignment_curves.png."""
    curves = read_parquet(folder / "curves.parquet")
    figure = alignment_curves(curves[(curves["metric"] == METRICS[0]) & (curves["pass"] == "separate")])
    write_atomically(
        folder / "alignment_curves.png",
        lambda path: figure.savefig(path, format="png", dpi=130, bbox_inches="tight"),
    )


def draw_outcomes(folder: Path) -> None:
    """Draw the layer map with the bridges of each plan, beside what each plan brought: plan_outcomes.png."""
    table = pd.read_csv(folder / "gap.csv")
    plan = BridgePlan.load(folder / "plan.json")
    figure = plan_outcomes(read_map(folder), table[table["plan"] != FLOOR], plan)
    write_atomically(folder / "plan_outcomes.png", lambda path: figure.savefig(path, format="png", dpi=110))


def score_experts(folder: Path) -> None:
    """Score both shipped experts on new scenes and new combinations: experts.csv."""
    if (folder / "experts.csv").exists():
        return
    tables = []
    for name, each in (("scenes-vlm", 300), ("scenes-dit", 40)):
        for part in ("test", "new"):
            tables.append(evaluate(open_expert(name), part, each).assign(expert=name, part=part))  # type: ignore[arg-type]
    write_csv(folder / "experts.csv", pd.concat(tables))


def collect(folder: Path) -> None:
    """Gather what the fused models left in their folders: scores.csv, learning.csv, samples.csv and samples/."""
    runs = sorted(run for run in (folder / "fused").iterdir() if (run / "scores.csv").exists())
    scores = pd.concat([pd.read_csv(run / "scores.csv").assign(run=run.name) for run in runs])
    write_csv(folder / "scores.csv", scores)
    logs = pd.concat([pd.read_csv(run / "log.csv", index_col=0) for run in runs if (run / "log.csv").exists()])
    write_csv(folder / "learning.csv", logs)
    shown = fused_folder(folder, "alignment", 0)
    write_atomically(folder / "samples.csv", partial(shutil.copy, shown / "samples.csv"))
    write_folder(folder / "samples", partial(shutil.copytree, shown / "samples", dirs_exist_ok=True))


def _fetched(name: str) -> bool:
    try:
        weights.verify(name)
    except (FileNotFoundError, ValueError):
        return False
    return True
