"""Keep on disk what bridges read of a frozen understanding expert, so that each caption is read once.

A folder holds the states of captions at every block (models/fusion/state_files.py) and index.json, which says of which
expert they are, and what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ...probes.arguments import checked, file_name, folder_name
from ...probes.files import write_json
from ...probes.fingerprints.described_values import digest
from ...probes.fingerprints.processor_settings import processor_settings
from ...probes.hooks.attention_calls import AttentionCall
from ...probes.hooks.model_state import evaluating
from ...probes.tensor_files import read_sealed, with_seal
from ..towers.tower import Tower
from ..towers.visiting import visiting
from .expert_passes import expert_tower, text_pass
from .saved_model import describe_experts
from .state_files import StateFiles

INDEX = "index.json"
DTYPES = ("float16", "float32")


class TextStates:
    """States of captions at every block of an understanding expert, read from disk.

    Captions that are not kept are read by the expert when they are first met, and added, once a fused model reads from
    these states.

    Parameters
    ----------
    folder : str or Path
        A folder that `keep_text_states` wrote.

    Attributes
    ----------
    folder : Path or None
        The folder; None where nothing is kept.
    captions : tuple of str
        The captions that are kept.
    inside : bool
        Whether the states are keys and values of attention, for bridges inside it, or the blocks' outputs.
    dtype : str
        The dtype in which they are kept.

    Raises
    ------
    FileNotFoundError
        The folder holds no states.

    See Also
    --------
    keep_text_states : Makes the folder, and returns an object of this class.
    """

    def __init__(self, folder: str | Path) -> None:
        path = file_name("folder", folder) / INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no text states: keep them by keep_text_states")
        self._open(path.parent, read_sealed(path))

    @classmethod
    def _unkept(cls, index: dict[str, Any]) -> TextStates:
        states = cls.__new__(cls)
        states._open(None, index)
        return states

    def _open(self, folder: Path | None, index: dict[str, Any]) -> None:
        self.folder, self._index = folder, index
        self.inside: bool = index["inside"]
        self.dtype: str = index.get("dtype", DTYPES[0])
        self._reader: _Reader | None = None
        self._files: StateFiles | None = None
        if folder is not None:
            whole = index if "captions" in index else None
            self._files = StateFiles(folder, index["widths"] if whole is None else _widths(folder), self.dtype, whole)

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions that are kept."""
        return () if self._files is None else self._files.captions

    def check(self, fused: Any) -> None:
        """Raise a ValueError where a fused model cannot read these states.

        Parameters
        ----------
        fused : FusedModel
            The model. The states must be of its understanding expert as it is now, and of the kind that its bridges
            read; nothing may change them while it is trained.

        Raises
        ------
        ValueError
            The model cannot read them, or its understanding states change in training.
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

    def read_missing_by(self, expert: Any, tower: Tower) -> None:
        """Let an expert read captions that are not kept when they are first met.

        Parameters
        ----------
        expert : Any
            The expert that these states are of.
        tower : Tower
            Its tower.
        """
        self._reader = _Reader(expert, tower, self.inside, self.dtype)

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
            A caption is not kept, and there is no expert to read it, or one that several processes share.
        """
        rows = self._find(captions, tuple(set(blocks)))
        lengths = torch.tensor([len(next(iter(rows[caption].values()))) for caption in captions])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        states: dict[int, Any] = {}
        for block in set(blocks):
            parts = [torch.from_numpy(rows[caption][block]) for caption in captions]
            padded = pad_sequence(parts, batch_first=True).float().to(device)
            states[block] = self._call(padded) if self.inside else padded
        return [states[block] for block in blocks], mask.to(device)

    def add(self, captions: Sequence[str]) -> None:
        """Read captions that are not kept yet, one at a time, and keep them.

        Parameters
        ----------
        captions : sequence of str
            The captions.
        """
        self._find(captions, ())

    def _find(self, captions: Sequence[str], blocks: Sequence[int]) -> dict[str, Mapping[int, np.ndarray]]:
        """Return the rows of captions by block; those that are missing are read by the expert and added."""
        unique = list(dict.fromkeys(captions))
        found: dict[str, Any] = dict.fromkeys(unique)
        if self._files is not None:
            if any(caption not in self._files for caption in unique):
                self._files.refresh()  # another process may have read them
            found = {caption: self._files.read(caption, blocks) for caption in unique}
        if not (missing := [caption for caption, rows in found.items() if rows is None]):
            return found
        if (reader := self._reader) is None or reader.is_shared:
            shared = "its expert is sharded, and all processes would have to read it"
            why = "nobody reads it" if reader is None else shared
            raise ValueError(
                f"the caption {missing[0]!r} is not kept in {self.folder}, and {why}: keep all captions of the run by "
                "keep_text_states, or read by the tower again: read_text_from(None)"
            )
        for caption in missing:  # alone, since its last bits would depend on the captions that are read with it
            (states,) = reader.read([caption])
            if self._files is not None:
                self._files.add({caption: states})
            found[caption] = dict(enumerate(states))
        return found

    def _call(self, rows: Tensor) -> AttentionCall:
        """Return an attention call with these keys and values; the queries, which nobody reads, have no tokens."""
        heads, key_heads, dim = self._index["heads"]
        key, value = (side.unflatten(2, (key_heads, -1)).transpose(1, 2) for side in rows.split(key_heads * dim, 2))
        nothing = rows.new_empty(len(rows), heads, 0, dim)
        return AttentionCall(nothing, key, value, nothing, None, None)


def keep_text_states(
    expert: Any,
    captions: Sequence[str],
    folder: str | Path | None,
    inside: bool = False,
    batch_size: int = 32,
    dtype: str = "float16",
) -> TextStates:
    """Read captions once by a frozen understanding expert, and keep the states of all blocks on disk.

    Captions that the folder holds are not read again, so a call that was stopped reads on where it stopped. Captions
    that are not named here are read when training first meets them.

    Parameters
    ----------
    expert : Any
        An expert that reads text.
    captions : sequence of str
        The captions, none for those that training will meet. The empty caption is always kept: guidance needs it.
    folder : str, Path or None
        The folder. It takes 2 bytes for each dim, token and block. None keeps nothing: the expert reads a caption
        whenever it is met, as if it were met for the first time, which gives the same bits.
    inside : bool
        Whether to keep the keys and values of attention, for bridges inside it ("H", "dense"), in place of the blocks'
        outputs.
    batch_size : int
        Captions that are read together. Padding and batches change the last bits of what a language model computes; 1
        gives the bits of captions that training meets.
    dtype : {"float16", "float32"}
        The dtype in which they are kept. float32 holds the states of experts in half precision exactly as well, in
        4 bytes for each dim.

    Returns
    -------
    TextStates
        The states, of the captions that the folder holds now.

    Raises
    ------
    ValueError, TypeError
        The folder holds the states of another expert or others of this one, or an argument is of another kind.

    See Also
    --------
    FusedModel.read_text_from : Makes a fused model read them.

    Notes
    -----
    float16 has 11 bits: a state is off by at most a 2,000th. States beyond 65,504, as those of attention sinks can be,
    are kept as that. Several processes may call this at once, and train from one folder.

    Examples
    --------
    >>> states = keep_text_states(vlm, stimuli.texts, "runs/states", inside=True)  # of the layout "H"
    >>> fused = FusedModel(vlm, dit, lay_out("H", 16, 13)).read_text_from(states)
    >>> states = keep_text_states(vlm, (), "runs/states", inside=True)  # captions are read when they are met
    """
    checked("dtype", dtype, str, known=DTYPES)
    batch_size, inside = checked("batch_size", batch_size, int, least=1), checked("inside", inside, bool)
    captions = [] if captions in ((), []) else list(checked("captions", captions, Sequence[str]))
    folder = None if folder is None else folder_name("folder", folder)
    if "text" not in getattr(expert, "modalities", ()):
        raise TypeError(f"a {type(expert).__name__} reads no text: expected an understanding expert, as scenes-vlm is")
    tower = expert_tower(expert, text_pass(expert, ["a", "a"])[0], None)
    reader = _Reader(expert, tower, inside, dtype)
    about = {"expert": describe_experts([expert])[0], "settings": _settings(expert), "inside": inside, "dtype": dtype}
    if folder is None:
        return _with_reader(TextStates._unkept(about | reader.shape()), expert, tower)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another process that reads the same captions waits, and finds them
        if (folder / INDEX).is_file():
            states = TextStates(folder)
            if not _is_of(states._index, expert) or states.inside != inside:
                raise ValueError(
                    f"{folder} holds the states of another expert or for other bridges: choose another folder"
                )
            if states.dtype != dtype:
                raise ValueError(f"{folder} holds states in {states.dtype}, not {dtype}: choose another folder")
        else:
            write_json(folder / INDEX, with_seal(about | reader.shape()))
            states = TextStates(folder)
        _read_all(states, reader, list(dict.fromkeys(["", *captions])), batch_size)
    return _with_reader(states, expert, tower)


def _with_reader(states: TextStates, expert: Any, tower: Tower) -> TextStates:
    states.read_missing_by(expert, tower)
    return states


def _read_all(states: TextStates, reader: _Reader, captions: Sequence[str], batch_size: int) -> None:
    """Read captions in batches, those of one length together, as far as a batch is not kept yet."""
    files = states._files
    assert files is not None
    if all(caption in files for caption in captions):
        return
    starts = range(0, len(captions), 512)
    counts = [int(n) for start in starts for n in text_pass(reader.expert, captions[start : start + 512])[1].sum(1)]
    order = np.argsort(counts, kind="stable")
    batches = [[captions[n] for n in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    for batch in tqdm(batches, desc=f"text states of {reader.expert.name}"):
        missing = [caption for caption in batch if caption not in files]
        if missing:  # the whole batch is read even so: others would have other bits
            read = dict(zip(batch, reader.read(batch), strict=True))
            files.add({caption: read[caption] for caption in missing})


class _Reader:
    """Read captions by an expert, as they are kept."""

    def __init__(self, expert: Any, tower: Tower, inside: bool, dtype: str) -> None:
        self.expert, self.tower, self.inside, self.dtype = expert, tower, inside, np.dtype(dtype)
        self._heads: list[int] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether the expert's weights lie on several processes, all of which must run it."""
        return any(hasattr(parameter, "to_local") for parameter in self.expert.model.parameters())

    def shape(self) -> dict[str, Any]:
        """Return how wide the states of each block are, and the query heads, key heads and dims of keys inside."""
        (states,) = self.read([""])
        return {"widths": [rows.shape[1] for rows in states], "heads": self._heads}

    def read(self, captions: Sequence[str]) -> list[list[np.ndarray]]:
        """Return the rows (token, width) of each caption at every block, without padding."""
        kept: dict[int, Tensor] = {}
        run, mask = text_pass(self.expert, captions)
        visits = {block: self._keep(block, kept) for block in range(len(self.tower.blocks))}
        model = self.expert.model
        whole = torch.autocast(next(model.parameters()).device.type, enabled=False)  # as outside of a training step
        with torch.no_grad(), evaluating(model), whole, visiting(self.tower, visits, self.inside):
            run()
        mask, largest = mask.cpu(), torch.finfo(torch.float16).max
        rows: list[list[np.ndarray]] = [[] for _ in captions]
        for block in visits:
            states = kept[block].float()
            if self.dtype == np.float16:
                states = states.clamp(-largest, largest).half()
            for mine, state, real in zip(rows, states.cpu(), mask, strict=True):
                mine.append(state[real].numpy())
        return rows

    def _keep(self, block: int, kept: dict[int, Tensor]) -> Callable[[Any], None]:
        def visit(own: Any) -> None:
            if isinstance(own, AttentionCall):
                self._heads = [own.query.shape[1], own.key.shape[1], own.key.shape[3]]
                sides = (side[:, :, own.reads].transpose(1, 2).flatten(2) for side in (own.key, own.value))
                own = torch.cat(list(sides), 2)
            kept[block] = own.detach()

        return visit


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


def _widths(folder: Path) -> list[int]:
    """Return how wide the blocks' states are in a folder that an earlier version wrote as a whole."""
    paths = sorted(folder.glob("block-*.npy"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return [np.load(path, mmap_mode="r").shape[1] for path in paths]
