"""Measure the causal evidence: what the experts' tasks rest on, layer by layer, and which bridges carry the text.

`bridgework reproduce causal` writes attribution.csv, attention.csv, conflict.csv and causal_evidence.png of the two
experts and, from the fused models that `bridgework reproduce scenes` left in runs/committed, links.csv and
link_drift.csv. It takes about half an hour on one core. What is there already is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..figures import causal_evidence
from ..models.evaluation.link_ablation import ablate_links, link_drift
from ..models.evaluation.objectives import answer_log_probability, minus_denoising_error
from ..models.experts.opening import open_expert
from ..models.experts.pixel_dit import DitExpert
from ..models.experts.vision_language import LlavaExpert
from ..models.fusion.fused_model import FusedModel
from ..models.generation.flow import add_noise, velocity_loss
from ..models.scenes.composing import compose, scene_stimuli
from ..models.scenes.dialogues import answer_loss, question_prompt, tokenize_rows
from ..models.scenes.questions import compose_question
from ..models.scenes.rendering import render_scene
from ..models.scenes.scene import PARTS, SIZE, SKILLS
from ..probes.evidence.attention import attention_mass
from ..probes.evidence.attribution import OTHER, attribute
from ..probes.evidence.conflict import gradient_conflict
from ..probes.files import write_atomically, write_csv
from ..probes.stimuli.images import to_pixels
from ..probes.stimuli.stimulus_set import Stimuli, Stimulus
from .fused_models import fused_folder
from .settings import COMMITTED, EXPERTS, TIMESTEPS, Budget

RESULTS = Path(__file__).parent / "results"
PART = "validation"
TIMESTEP = 0.8  # noisy: here the caption decides what is drawn
STEPS = {"conductance": 32, "integrated_gradients": 16, "ablation": 2}  # of paths; ablation has none
ASKED = 2  # questions of every skill, and as many scenes, that outputs are attributed on
DENOISED = 128  # scenes that attention, drift and loss are measured on
BATCHES = 12  # of 8 rows, of each task whose gradients are compared


def questions(each: int, part: str = PART, seed: int = 0) -> tuple[Stimuli, dict[str, str]]:
    """`each` questions of every skill as stimuli, the text being question and answer, and the answers by id."""
    rng = np.random.default_rng((seed, PARTS.index(part), 4))
    shown, answers = [], {}
    for number, skill in enumerate(skill for skill in SKILLS for _ in range(each)):
        asked = compose_question(rng, skill, part)
        shown.append(Stimulus(render_scene(asked.scene, rng), f"{asked.question} {asked.answer}", f"{skill} {number}"))
        answers[shown[-1].id] = asked.answer
    return Stimuli(shown, f"questions-{part}"), answers


def attributions(vlm: LlavaExpert, dit: DitExpert, each: int = ASKED) -> pd.DataFrame:
    """Answers' log-probability and minus the denoising error, by all methods."""
    asked, answers = questions(each)
    drawn = scene_stimuli(PART, len(asked))
    answering = answer_log_probability(vlm.tokenizer, answers)
    tables = []
    for method, steps in STEPS.items():
        how: dict[str, Any] = {"method": method, "steps": steps}
        tables.append(attribute(vlm, asked, answering, **how))
        tables.append(attribute(dit, drawn, minus_denoising_error, timestep=TIMESTEP, **how))
    return pd.concat(tables)


def attention(vlm: LlavaExpert, dit: DitExpert, samples: int = DENOISED) -> pd.DataFrame:
    """Cross-modal attention mass over scenes and their captions, the generation expert at all timesteps."""
    shown = scene_stimuli(PART, samples)
    swept = [attention_mass(dit, shown, timestep=time) for time in TIMESTEPS]
    return pd.concat([attention_mass(vlm, shown), *swept])


def conflicts(vlm: LlavaExpert, dit: DitExpert, batches: int = BATCHES, size: int = 8) -> pd.DataFrame:
    """Questions about images x about captions; denoising at .2 x at .8; denoising with captions x without.

    No two batches share a scene, so that tasks are compared over as different data as halves are.
    """
    numbers = iter(range(10**6))

    def losses(loss: Callable[[int], Tensor]) -> list[Callable[[], Tensor]]:
        return [partial(loss, next(numbers)) for _ in range(batches)]

    def asking(read: bool, number: int) -> Tensor:
        rng = np.random.default_rng((number, 5))
        asked = [compose_question(rng, str(rng.choice(SKILLS)), PART) for _ in range(size)]
        prompts = [question_prompt(q.question, q.scene.caption if read else None) for q in asked]
        rows = tokenize_rows(vlm.tokenizer, [[(p, q.answer)] for p, q in zip(prompts, asked, strict=True)])
        labels = rows.pop("labels")
        if not read:
            rows["pixel_values"] = to_pixels([render_scene(q.scene, rng) for q in asked], SIZE)
        return answer_loss(vlm.model(**rows).logits, labels)

    def denoising(time: float, told: bool, number: int) -> Tensor:
        rng = np.random.default_rng((number, 6))
        composed = [compose(rng, "full", PART) for _ in range(size)]
        image = to_pixels([render_scene(example.scene, rng) for example in composed], SIZE)
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        text = dit.encode([example.caption if told else "" for example in composed])
        at = torch.full((size,), time)
        return velocity_loss(dit.predict(add_noise(image, noise, time), text, at), image, at)

    pairs: list[tuple[LlavaExpert | DitExpert, dict[str, Any]]] = [
        (vlm, {"asked of images": partial(asking, False), "asked of captions": partial(asking, True)}),
        (dit, {"t = 0.2": partial(denoising, 0.2, True), "t = 0.8": partial(denoising, 0.8, True)}),
        (dit, {"with caption": partial(denoising, 0.8, True), "without": partial(denoising, 0.8, False)}),
    ]
    tables = []
    for expert, tasks in pairs:
        both = {name: losses(loss) for name, loss in tasks.items()}
        tables.append(gradient_conflict(expert.model, expert.blocks, both).assign(subject=expert.name))
    return pd.concat(tables)


def break_links(runs: Path, results: Path, budget: Budget = COMMITTED) -> None:
    """Every bridge of the fused models with the alignment plan, one model for each seed: links.csv, link_drift.csv."""
    stimuli = scene_stimuli(PART, DENOISED)
    links, drifts = [], []
    for seed in range(budget.seeds):
        run = fused_folder(runs, "alignment", seed)
        fused = FusedModel.load(run, *(open_expert(name) for name in EXPERTS))  # type: ignore[arg-type]
        drifts.append(link_drift(fused, stimuli).assign(seed=seed))
        if not (run / "links.csv").exists():
            table = ablate_links(fused, stimuli, each=budget.each).assign(seed=seed)
            write_csv(run / "links.csv", table)
        links.append(pd.read_csv(run / "links.csv"))
    _save(results / "links.csv", pd.concat(links))
    _save(results / "link_drift.csv", pd.concat(drifts))


def draw(results: Path) -> Figure:
    """The figure of the three tables, the generation expert at the noisy timestep."""
    attributed, looked, pulled = (pd.read_csv(results / f"{n}.csv") for n in ("attribution", "attention", "conflict"))
    looked = looked[looked["timestep"].isna() | (looked["timestep"] == TIMESTEP)]
    return causal_evidence(attributed[attributed["modality"] != OTHER], looked, pulled)


def _save(path: Path, table: pd.DataFrame) -> None:
    write_csv(path, table, float_format="%.6g")


def measure_causal(folder: Path, runs: Path, budget: Budget = COMMITTED) -> None:
    """Measure all of this module and draw the figure.

    Parameters
    ----------
    folder : Path
        Where the tables and the figure are written; a table that is there is not measured again.
    runs : Path
        The run of the study scenes, whose fused models are read.
    budget : Budget, optional
        The budget of that run.

    Raises
    ------
    FileNotFoundError
        There are no fused models in `runs`; all else has been written then.
    """
    vlm, dit = open_expert("scenes-vlm"), open_expert("scenes-dit")
    for name, measure in (("attention", attention), ("conflict", conflicts), ("attribution", attributions)):
        if not (folder / f"{name}.csv").exists():
            _save(folder / f"{name}.csv", measure(vlm, dit))
    figure = draw(folder)
    write_atomically(folder / "causal_evidence.png", lambda path: figure.savefig(path, format="png", dpi=110))
    if not (runs / "fused").is_dir():
        raise FileNotFoundError(f"no fused models in {runs}: run `bridgework reproduce scenes causal`")
    break_links(runs, folder, budget)
