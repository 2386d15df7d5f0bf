"""Keep on disk what bridges read of a frozen understanding expert, so that each caption is read once.

    index.json        the expert, the captions, where the states stand, and how many captions are there already
    block-00.npy ...  float16, (token, width): the tokens of all captions one after another, without padding

The files are memory-mapped: a training step reads the rows of its own captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ...probes.files import write_json
from ...probes.fingerprints.described_values import digest
from ...probes.fingerprints.processor_settings import processor_settings
from ...probes.hooks.attention_calls import AttentionCall
from ..towers.visiting import visiting
from .expert_passes import expert_tower, text_pass
from .saved_model import describe_experts

INDEX = "index.json"


class TextStates:
    """States of captions at every block of an understanding expert, read from disk.

    Parameters
    ----------
    folder : str or Path
        A folder that `keep_text_states` wrote.

    Attributes
    ----------
    folder : Path
        The folder.
    captions : tuple of str
        The captions that are kept.
    inside : bool
        Whether the states are keys and values of attention, for bridges inside it, or the blocks' outputs.

    Raises
    ------
    FileNotFoundError
        The folder holds no states.
    ValueError
        Not all captions were read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(f"{folder} holds no text states: keep them by keep_text_states")
        self._index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        self.captions: tuple[str, ...] = tuple(self._index["captions"])
        self.inside: bool = self._index["inside"]
        if self._index["read"] < len(self.captions):
            raise ValueError(
                f"{folder} holds states of {self._index['read']} of {len(self.captions)} captions: run "
                "keep_text_states again, which reads the others"
            )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {caption: number for number, caption in enumerate(self.captions)}

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([0, *self._index["tokens"]])

    @cached_property
    def _files(self) -> list[np.memmap]:
        return _open_files(self.folder, "r")

    def check(self, fused: Any) -> None:
        """Raise a ValueError where a fused model cannot read these states.

        Parameters
        ----------
        fused : FusedModel
            The model. The states must be of its understanding expert as it is now, and of the kind that its bridges
            read; nothing may change them while it is trained.
        """
        expert = fused.experts[0]
        if fused.trained_experts != "bridges" or fused.plan.both_ways:
            raise ValueError(
                "states on disk stay as they are, and this model's understanding states change: train the bridges "
                "alone, of a plan that runs one way"
            )
        if not _is_of(self._index, expert):
            raise ValueError(
                f"the text states in {self.folder} are of another {self._index['expert']['name']} than {expert.name} "
                "is now: keep them again in a new folder"
            )
        if self.inside != fused.inside:
            states = ("block outputs", "keys and values inside attention")
            raise ValueError(
                f"the text states in {self.folder} are {states[self.inside]}, and this plan's bridges read "
                f"{states[fused.inside]}: keep them again with inside={fused.inside}"
            )

    def read(
        self, captions: Sequence[str], blocks: Sequence[int], device: torch.device | None = None
    ) -> tuple[list[Any], Tensor]:
        """Return what bridges read of a batch of captions.

        Parameters
        ----------
        captions : sequence of str
            The batch.
        blocks : sequence of int
            The understanding blocks.
        device : torch.device, optional
            Where the states go; the CPU if left out.

        Returns
        -------
        states : list
            Of each block, as a visit sees it: the output (batch, token, dim) in float32, or an `AttentionCall`.
        mask : Tensor
            (batch, token), False at padding.

        Raises
        ------
        ValueError
            A caption is not kept.
        """
        if missing := [caption for caption in captions if caption not in self._numbers]:
            raise ValueError(
                f"the caption {missing[0]!r} is not kept in {self.folder}: keep all captions of the run, or read by "
                "the tower again: read_text_from(None)"
            )
        numbers = [self._numbers[caption] for caption in captions]
        spans = [slice(self._ends[n], self._ends[n + 1]) for n in numbers]
        lengths = torch.tensor([span.stop - span.start for span in spans])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        found = {block: self._padded(block, spans).to(device) for block in set(blocks)}
        states = {block: self._call(rows) if self.inside else rows for block, rows in found.items()}
        return [states[block] for block in blocks], mask.to(device)

    def _padded(self, block: int, spans: Sequence[slice]) -> Tensor:
        rows = [torch.from_numpy(np.array(self._files[block][span])) for span in spans]
        return pad_sequence(rows, batch_first=True).float()

    def _call(self, rows: Tensor) -> AttentionCall:
        """Return an attention call with these keys and values; the queries, which nobody reads, have no tokens."""
        heads, key_heads, dim = self._index["heads"]
        key, value = (side.unflatten(2, (key_heads, -1)).transpose(1, 2) for side in rows.split(key_heads * dim, 2))
        nothing = rows.new_empty(len(rows), heads, 0, dim)
        return AttentionCall(nothing, key, value, nothing, None, None)


def keep_text_states(
    expert: Any, captions: Sequence[str], folder: str | Path, inside: bool = False, batch_size: int = 32
) -> TextStates:
    """Read every caption once by a frozen understanding expert, and keep the states of all blocks on disk.

    When it was stopped, the same call reads on where it stopped.

    Parameters
    ----------
    expert : Any
        An expert that reads text.
    captions : sequence of str
        The captions; repeated ones are read once. The empty caption is always kept: guidance needs it.
    folder : str or Path
        The folder. It takes 2 bytes for each dim, token and block.
    inside : bool
        Whether to keep the keys and values of attention, for bridges inside it ("H", "dense"), in place of the blocks'
        outputs.
    batch_size : int
        Captions that are read together.

    Returns
    -------
    TextStates

    Raises
    ------
    ValueError
        The folder holds the states of another expert or of other captions.

    See Also
    --------
    FusedModel.read_text_from : Makes a fused model read them.

    Notes
    -----
    float16 has 11 bits: a state is off by at most a 2,000th. States beyond 65,504, as those of attention sinks can be,
    are kept as that.

    Examples
    --------
    >>> fused.read_text_from(keep_text_states(expert, stimuli.texts, "runs/states"))
    """
    folder = Path(folder)
    unique = list(dict.fromkeys(["", *captions]))
    tower = expert_tower(expert, text_pass(expert, ["a", "a"])[0], None)
    index: dict[str, Any]
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if not _is_of(index, expert) or (index["captions"], index["inside"]) != (unique, inside):
            raise ValueError(
                f"{folder} holds the states of another expert, of other captions or of other bridges: choose another "
                "folder"
            )
    else:
        tokens = [
            int(n)
            for start in range(0, len(unique), 512)
            for n in text_pass(expert, unique[start : start + 512])[1].sum(1)
        ]
        index = {
            "expert": describe_experts([expert])[0],
            "settings": _settings(expert),
            "captions": unique,
            "inside": inside,
            "tokens": tokens,
            "read": 0,
            "heads": None,
        }
    ends = np.cumsum([0, *index["tokens"]])
    numbers = np.argsort(index["tokens"], kind="stable")  # captions of one length are read together
    files: list[np.memmap] = []
    if index["read"]:
        files = _open_files(folder, "r+")
    kept: dict[int, Tensor] = {}

    def keep(block: int) -> Any:
        def visit(own: Any) -> None:
            if isinstance(own, AttentionCall):
                index["heads"] = [own.query.shape[1], own.key.shape[1], own.key.shape[3]]
                sides = (side[:, :, own.reads].transpose(1, 2).flatten(2) for side in (own.key, own.value))
                own = torch.cat(list(sides), 2)
            kept[block] = own.detach()

        return visit

    blocks = range(len(tower.blocks))
    for start in tqdm(range(index["read"], len(unique), batch_size), desc=f"text states of {expert.name}"):
        batch = numbers[start : start + batch_size]
        run, mask = text_pass(expert, [unique[n] for n in batch])
        with torch.no_grad(), visiting(tower, {block: keep(block) for block in blocks}, inside):
            run()
        if not files:
            folder.mkdir(parents=True, exist_ok=True)
            files = [
                np.lib.format.open_memmap(_file(folder, block), "w+", np.float16, (int(ends[-1]), kept[block].shape[2]))
                for block in blocks
            ]
        largest = torch.finfo(torch.float16).max
        for block in blocks:
            states = kept[block].float().clamp(-largest, largest).half().cpu().numpy()
            for row, number in enumerate(batch):
                files[block][ends[number] : ends[number + 1]] = states[row][mask[row].cpu().numpy()]
            files[block].flush()  # before the index says that they are there
        index["read"] = min(start + batch_size, len(unique))
        write_json(folder / INDEX, index)
    return TextStates(folder)


def _is_of(index: dict[str, Any], expert: Any) -> bool:
    """Return whether states are of an expert as it is now: its weights, and how it turns captions into tokens."""
    settings = _settings(expert)
    # The first folders that were written have no settings.
    return index["expert"] == describe_experts([expert])[0] and index.get("settings", settings) == settings


def _settings(expert: Any) -> dict[str, Any]:
    """Describe what decides the tokens of a caption, such as the tokenizer and the token in front."""
    held = {name: value for name, value in getattr(expert, "__dict__", {}).items() if not name.startswith("_")}
    plain = {name: value for name, value in held.items() if value is None or isinstance(value, str | int | bool)}
    return plain | {name: digest(found) for name, value in held.items() if (found := processor_settings(value))}


def _file(folder: Path, block: int) -> Path:
    return folder / f"block-{block:02d}.npy"


def _open_files(folder: Path, mode: Literal["r", "r+"]) -> list[np.memmap]:
    count = len(list(folder.glob("block-*.npy")))
    return [np.load(_file(folder, block), mmap_mode=mode) for block in range(count)]
