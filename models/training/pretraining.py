"""Train the shipped experts: `bridgework train scenes-vlm FOLDER`, or another name of `STEPS`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import AddedToken, PreTrainedTokenizerFast, SiglipImageProcessorPil

from ...probes.arguments import checked, file_name, unknown
from ...probes.files import write_folder
from ..experts.downloads.expert_sources import STEPS
from ..experts.opening import open_expert
from ..experts.pixel_dit import DitExpert
from ..experts.shipped_architectures import build_dit, build_text_encoder, build_tokenizer, build_vlm
from ..generation.flow import flow_loss
from ..scenes.dialogues import answer_loss, split_labels
from ..scenes.read_captions import read_captions
from ..scenes.scene import SIZE
from .batches import stimuli_batch
from .loop import fit
from .scene_batches import dit_batch, emoji_part, vlm_batch

SEED = 0
Trained = tuple[list[dict[str, Any]], Callable[[Path], None]]  # the log, and what writes the checkpoint


def pretrain(name: str, folder: str | Path, steps: int | None = None) -> Path:
    """Train one of the shipped experts from random weights, or scenes-reader from those of scenes-vlm.

    A stopped run is resumed from its newest checkpoint.

    Parameters
    ----------
    name : str
        A name of `STEPS`.
    folder : str or Path
        Folder of the run.
    steps : int, optional
        Number of training steps; None stands for those of the shipped expert (`STEPS`).

    Returns
    -------
    Path
        The folder of the expert's checkpoint, for `open_expert`. Weights are kept in float16, the matrices of
        emoji-dit in float8 (E4M3).

    Raises
    ------
    ValueError
        For another name, or fewer steps than one.

    Notes
    -----
    scenes-vlm, scenes-dit and emoji-dit took 41, 84 and 43 minutes on one core each, in bfloat16
    (`ACCELERATE_MIXED_PRECISION=bf16`) and, for scenes-dit, with its model compiled; scenes-reader took 45 beside other
    work.
    """
    if name not in STEPS:
        raise unknown("expert", name, STEPS)
    folder = file_name("folder", folder)
    steps = STEPS[name] if steps is None else checked("steps", steps, int, least=1)
    torch.manual_seed(SEED)
    train = _dit if "dit" in name else _vlm

    log, save = train(name, folder, steps)

    def fill(final: Path) -> None:
        save(final)
        (final / "training.json").write_text(json.dumps({"steps": steps, "seed": SEED, "log": log}))

    if PartialState().is_main_process:
        write_folder(folder / "final", fill)
    PartialState().wait_for_everyone()
    return folder / "final"


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a run once: the trainer numbers the pieces of emoji names differently every time."""
    if not (folder / "tokenizer").exists():
        build_tokenizer().save_pretrained(folder / "tokenizer.new")
        os.replace(folder / "tokenizer.new", folder / "tokenizer")
    return PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")


def _vlm(name: str, folder: Path, steps: int) -> Trained:
    """Train scenes-vlm on questions, captions and names of emoji, or train it further on captions that must be read."""
    reads = name == "scenes-reader"
    if reads:
        shipped = open_expert("scenes-vlm")
        model, tokenizer = shipped.model, shipped.tokenizer
        tokenizer.add_tokens([AddedToken(word, single_word=True) for word in _new_words(tokenizer)])
        model.resize_token_embeddings(len(tokenizer))
    else:
        tokenizer = _tokenizer(folder)
        model = build_vlm(tokenizer)
    emoji = emoji_part("train")

    def loss(step: int) -> torch.Tensor:
        inputs, labels = split_labels(vlm_batch(step, SEED, emoji, tokenizer, must_be_read=reads), model.device)
        return answer_loss(model(**inputs).logits, labels)

    log = fit(model, loss, folder, steps, learning_rate=1e-3, muon=2e-3, average=0.998, progress=name)
    side = {"height": SIZE, "width": SIZE}
    processor = SiglipImageProcessorPil(size=side, resample=1, image_mean=[0.5] * 3, image_std=[0.5] * 3)

    def save(final: Path) -> None:
        for part in (model.half(), tokenizer, processor):
            part.save_pretrained(final)

    return log, save


def _new_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the words of captions that must be read which the tokenizer takes apart."""
    captions = [read.caption for read in read_captions("train", 100)]
    words = sorted({word for caption in captions for word in caption.split()})
    return [word for word in words if len(tokenizer.tokenize(word)) > 1]


def _dit(name: str, folder: Path, steps: int) -> Trained:
    """Train scenes-dit on scenes and a few emoji, or emoji-dit on emoji alone."""
    tokenizer = _tokenizer(folder)
    expert = DitExpert(name, build_dit(name), build_text_encoder(tokenizer), tokenizer, ())
    both = nn.ModuleList([expert.model, expert.text_encoder]).to(PartialState().device)
    emoji = emoji_part("train")

    def loss(step: int) -> torch.Tensor:
        draw = stimuli_batch if name == "emoji-dit" else dit_batch
        return flow_loss(expert, draw(step, SEED, emoji))

    log = fit(both, loss, folder, steps, learning_rate=1e-3, muon=2e-3, average=0.999, progress=name)
    expert.model.half()
    if name == "emoji-dit":  # 5 MB instead of 9, and 1 % more validation loss
        for p in expert.model.parameters():
            p.data = p.data.to(torch.float8_e4m3fn) if p.ndim == 2 else p.data

    def save(final: Path) -> None:
        expert.model.save_pretrained(final / "transformer")
        expert.text_encoder.half().save_pretrained(final / "text_encoder")
        tokenizer.save_pretrained(final / "tokenizer")

    return log, save
