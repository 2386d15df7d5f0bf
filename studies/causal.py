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
STEPS = {"conductance": 32, "integrated_gradients": 16, "ablation": 2}  # along a path; ablation has no path
ASKED = 2  # questions of every skill, and as many scenes: what outputs are attributed on
DENOISED = 128  # scenes: what attention, drift and loss are measured on
BATCHES = 12  # batches of each task whose gradients are compared


def questions(each: int, part: str = PART, seed: int = 0) -> tuple[Stimuli, dict[str, str]]:
    """Return questions about scenes as stimuli.

    Parameters
    ----------
    each : int
        Number of questions of every skill.
    part : str
        Part of the scenes.
    seed : int
        Seed of the questions.

    Returns
    -------
    stimuli : Stimuli
        Images of the scenes; a text is a question with its answer.
    answers : dict of str to str
        The answers by the stimuli's ids.
    """
    rng = np.random.default_rng((seed, PARTS.index(part), 4))
    stimuli, answers = [], {}
    for number, skill in enumerate(skill for skill in SKILLS for _ in range(each)):
        asked = compose_question(rng, skill, part)
        image, text = render_scene(asked.scene, rng), f"{asked.question} {asked.answer}"
        stimuli.append(Stimulus(image, text, f"{skill} {number}"))
        answers[stimuli[-1].id] = asked.answer
    return Stimuli(stimuli, f"questions-{part}"), answers


def attributions(vlm: LlavaExpert, dit: DitExpert, each: int = ASKED) -> pd.DataFrame:
    """Attribute the answers' log-probability and minus the denoising error to layers, by every method of `STEPS`.

    Parameters
    ----------
    vlm : LlavaExpert
        The understanding expert.
    dit : DitExpert
        The generation expert.
    each : int
        Number of questions of every skill.

    Returns
    -------
    pandas.DataFrame
        The tables of `attribute`, one below the other.
    """
    asked, answers = questions(each)
    drawn = scene_stimuli(PART, len(asked))
    log_probability = answer_log_probability(vlm.tokenizer, answers)
    tables = []
    for method, steps in STEPS.items():
        options: dict[str, Any] = {"method": method, "steps": steps}
        tables.append(attribute(vlm, asked, log_probability, **options))
        tables.append(attribute(dit, drawn, minus_denoising_error, timestep=TIMESTEP, **options))
    return pd.concat(tables)


def attention(vlm: LlavaExpert, dit: DitExpert, samples: int = DENOISED) -> pd.DataFrame:
    """Measure the cross-modal attention mass over scenes and their captions.

    Parameters
    ----------
    vlm : LlavaExpert
        The understanding expert.
    dit : DitExpert
        The generation expert, which is measured at every timestep of the studies.
    samples : int
        Number of scenes.

    Returns
    -------
    pandas.DataFrame
        The tables of `attention_mass`, one below the other.
    """
    scenes = scene_stimuli(PART, samples)
    swept = [attention_mass(dit, scenes, timestep=time) for time in TIMESTEPS]
    return pd.concat([attention_mass(vlm, scenes), *swept])


def conflicts(vlm: LlavaExpert, dit: DitExpert, batches: int = BATCHES, size: int = 8) -> pd.DataFrame:
    """Compare the gradients of pairs of tasks, block by block.

    The pairs are questions about images and about captions, denoising at time .2 and at .8, and denoising with captions
    and without. No two batches share a scene, so that two tasks see data as different as two halves of one task do.

    Parameters
    ----------
    vlm : LlavaExpert
        The understanding expert.
    dit : DitExpert
        The generation expert.
    batches : int
        Number of batches of each task.
    size : int
        Number of rows in a batch.

    Returns
    -------
    pandas.DataFrame
        The tables of `gradient_conflict`, one below the other, with the column subject.
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

    def denoising(time: float, captioned: bool, number: int) -> Tensor:
        rng = np.random.default_rng((number, 6))
        composed = [compose(rng, "full", PART) for _ in range(size)]
        image = to_pixels([render_scene(example.scene, rng) for example in composed], SIZE)
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        text = dit.encode([example.caption if captioned else "" for example in composed])
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
    """Break every bridge of the fused models with the alignment plan, and write links.csv and link_drift.csv.

    Parameters
    ----------
    runs : Path
        Folder of the run that trained the fused models, one for each seed.
    results : Path
        Folder of the tables.
    budget : Budget
        Budget of that run.
    """
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
    """Draw the figure of the three tables, with the generation expert at the noisy timestep.

    Parameters
    ----------
    results : Path
        Folder of attribution.csv, attention.csv and conflict.csv.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    names = ("attribution", "attention", "conflict")
    attributed, attended, conflicted = (pd.read_csv(results / f"{name}.csv") for name in names)
    attended = attended[attended["timestep"].isna() | (attended["timestep"] == TIMESTEP)]
    return causal_evidence(attributed[attributed["modality"] != OTHER], attended, conflicted)


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
