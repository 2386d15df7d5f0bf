"""Write and read the files of text states: the states of each caption at every block, one caption after another.

    captions-ID/            what one process has added; others read it and never write to it
        captions.jsonl      a line for each caption: its text, where its rows begin, how many, and checksums, one of
                            the rows at each block and one of the line
        block-00.bin ...    (token, width): the rows of all captions one after another, without padding

The rows of a caption are written before its line. A process that is killed leaves rows without a line, or a part of a
line, and neither is read. Rows and lines that do not have their checksum, as after a power cut, count as missing.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LINES = "captions.jsonl"


class _Place(NamedTuple):
    """Where the rows of a caption stand: the part of the folder, the first and the last row, and their checksums."""

    part: _Part
    start: int
    stop: int
    checksums: Sequence[int] | None


class StateFiles:
    """The states of captions in a folder. Several processes may read it and add to it at the same time.

    Parameters
    ----------
    folder : Path
        The folder.
    widths : sequence of int
        How wide the states of each block are.
    dtype : str
        The dtype of the numbers: "float16" or "float32".
    index : mapping, optional
        The index of a folder that an earlier version wrote as a whole.
    """

    def __init__(self, folder: Path, widths: Sequence[int], dtype: str, index: Mapping[str, Any] | None = None) -> None:
        self.folder, self.widths, self.dtype = folder, tuple(widths), np.dtype(dtype)
        self._places: dict[str, _Place] = {}
        self._parts: dict[str, _Part] = {}
        self._own: tuple[int, _Part] | None = None  # which process, and what it adds to
        self._checked: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        if index is not None:
            self._places |= _written_whole(folder, index)
        self.refresh()

    def __contains__(self, caption: str) -> bool:
        return caption in self._places

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions that are kept, in the order in which they were found."""
        return tuple(self._places)

    def refresh(self) -> None:
        """Look for what other processes have added."""
        for path in sorted(self.folder.glob("captions-*")):
            part = self._parts.setdefault(path.name, _Part(path, self.widths, self.dtype))
            for caption, place in part.new_lines():
                self._places.setdefault(caption, place)

    def read(self, caption: str, blocks: Sequence[int]) -> dict[int, np.ndarray] | None:
        """Return a caption's rows of some blocks, each (token, width); None where they are missing or damaged."""
        if caption not in self._places:
            return None
        place, found = self._places[caption], {}
        for block in blocks:
            rows = place.part.rows(block, place.start, place.stop)
            if rows is None or not self._is_whole(caption, block, rows, place):
                del self._places[caption]
                return None
            found[block] = rows
        return found

    def _is_whole(self, caption: str, block: int, rows: np.ndarray, place: _Place) -> bool:
        if place.checksums is None or (caption, block) in self._checked:
            return True
        self._checked.add((caption, block))
        if zlib.crc32(rows.tobytes()) == place.checksums[block]:
            return True
        self._checked -= {(caption, other) for other in range(len(self.widths))}
        return False

    def add(self, states: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Write the states of captions: of each its rows (token, width) at every block."""
        with self._lock:
            if self._own is None or self._own[0] != os.getpid():  # a forked process adds to another part
                path = self.folder / f"captions-{os.getpid()}-{uuid.uuid4().hex[:12]}"
                path.mkdir(parents=True)
                self._own = os.getpid(), _Part(path, self.widths, self.dtype)
                self._parts[path.name] = self._own[1]
            for caption, place in self._own[1].append(states):
                self._places[caption] = place
                self._checked -= {(caption, block) for block in range(len(self.widths))}


class _Part:
    """The files that one process has written."""

    def __init__(self, path: Path, widths: Sequence[int], dtype: np.dtype) -> None:
        self.path, self.widths, self.dtype = path, widths, dtype
        self._read = 0  # bytes of the lines
        self._rows = 0
        self._maps: dict[int, np.memmap] = {}

    def _file(self, block: int) -> Path:
        return self.path / f"block-{block:02d}.bin"

    def rows(self, block: int, start: int, stop: int) -> np.ndarray | None:
        """Return a copy of some rows, None where the file ends before them."""
        if start == stop:
            return np.empty((0, self.widths[block]), self.dtype)
        kept = self._maps.get(block)
        if kept is None or len(kept) < stop:  # it has grown since it was mapped
            size = self._file(block).stat().st_size if self._file(block).is_file() else 0
            count = size // (self.widths[block] * self.dtype.itemsize)
            if count < stop:
                return None
            kept = np.memmap(self._file(block), self.dtype, "r", shape=(count, self.widths[block]))
            self._maps[block] = kept
        return np.array(kept[start:stop])

    def new_lines(self) -> Iterator[tuple[str, _Place]]:
        """Return the captions whose lines are whole and were not returned before."""
        try:
            with (self.path / LINES).open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:  # its first line is not written yet
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                start, tokens, checksums = (found := json.loads(line))["start"], found["tokens"], found["checksums"]
                if found.pop("line", None) not in (None, _checksum(found)) or len(found) != 4:
                    continue  # earlier versions wrote no checksum of the line
            except (ValueError, KeyError, TypeError):  # as a power cut leaves a line
                continue
            yield found["caption"], _Place(self, start, start + tokens, checksums)

    def append(self, states: Mapping[str, Sequence[np.ndarray]]) -> list[tuple[str, _Place]]:
        """Write captions behind the others. What an interrupted call has left there is written over."""
        start, places = self._rows, []
        lines = []
        for caption, rows in states.items():
            sums = [zlib.crc32(np.ascontiguousarray(block, self.dtype).tobytes()) for block in rows]
            places.append((caption, _Place(self, start, start + len(rows[0]), sums)))
            line = {"caption": caption, "start": start, "tokens": len(rows[0]), "checksums": sums}
            lines.append(line | {"line": _checksum(line)})
            start += len(rows[0])
        for block, width in enumerate(self.widths):
            joined = np.concatenate([rows[block] for rows in states.values()]).astype(self.dtype, copy=False)
            _write_at(self._file(block), self._rows * width * self.dtype.itemsize, joined.tobytes())
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        _write_at(self.path / LINES, self._read, text)
        self._rows, self._read = start, self._read + len(text)
        return places


def _checksum(line: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(line, sort_keys=True).encode())


def _write_at(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(place)
        file.write(data)
        file.truncate()


class _WholePart(_Part):
    """The files of an earlier version, which wrote all captions of a folder into one array for each block."""

    def rows(self, block: int, start: int, stop: int) -> np.ndarray | None:
        """Return a copy of some rows."""
        if block not in self._maps:
            self._maps[block] = np.load(self.path / f"block-{block:02d}.npy", mmap_mode="r")
        return np.array(self._maps[block][start:stop])


def _written_whole(folder: Path, index: Mapping[str, Any]) -> dict[str, _Place]:
    """Return where an earlier version kept captions; those that it had not read yet are left out."""
    part = _WholePart(folder, (), np.dtype("float16"))
    ends = np.cumsum([0, *index["tokens"]])
    read = sorted(np.argsort(index["tokens"], kind="stable")[: index["read"]])  # it began with the shortest
    return {index["captions"][n]: _Place(part, int(ends[n]), int(ends[n + 1]), None) for n in read}
