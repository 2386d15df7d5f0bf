"""Share the parts of one computation among workers that meet in a folder.

Every worker runs the same program on the same data. Where the program comes to work in parts (`in_parts`), each worker
computes some of them, writes them into the folder and reads those of the others, so that all go on with the same
numbers. Parts are what they would be in one process, and are put together in the same order: so is the result, bit for
bit. A worker that starts again finds what is there and computes what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import cause_of, write_atomically, write_json
from ..folder_locks import writing
from ..single_contexts import single_context
from ..tensor_files import hash_json, hash_tensor, read_sealed, read_tensors, sealed, with_seal
from .processes import Processes

MADE, RESULT, PARTS = "made.json", "scores.safetensors", "parts"
PACKAGES = ("bridgework", "torch", "numpy")
LONGEST = 0.5  # seconds between two looks for parts of other workers
Part = tuple[Tensor, ...]
Compute = Callable[[Iterable[int]], Iterable[Part]]


@dataclass
class SharedParts:
    """Hold a worker's place in a computation that several share.

    Attributes
    ----------
    folder : Path
        Where parts are written.
    worker, workers : int
        The number of this worker, and of all workers.
    check : callable
        Raises an error where another worker has failed for good.
    step : int
        How often the program has come to work in parts.
    """

    folder: Path
    worker: int
    workers: int
    check: Callable[[], None] = lambda: None
    step: int = 0

    def parts(self, compute: Compute, count: int) -> Iterator[Part]:
        """Compute the parts of this worker, wait for the others, and read all of them in order.

        A worker claims a part before it computes it. While it waits, it claims parts that no other has come to, the
        last ones first. A worker that starts again goes on with what it had claimed.

        Parameters
        ----------
        compute, count
            As of `in_parts`.

        Returns
        -------
        iterator of tuple of Tensor
            The parts, on the CPU.
        """
        folder = self.folder / str(self.step)
        self.step += 1
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, compute, (number for number in range(count) if self._owner(number) == self.worker))
        pause = 0.01
        while missing := self._missing(folder, count):
            self.check()
            if self._write(folder, compute, reversed(missing), most=1):
                pause = 0.01
            else:
                time.sleep(pause)
                pause = min(1.2 * pause, LONGEST)
        return (_read(folder / _name(number)) for number in range(count))

    def _owner(self, number: int) -> int:
        """Return who computes a part first: up and down the workers, since parts may become smaller by and by."""
        turn, place = divmod(number, self.workers)
        return self.workers - 1 - place if turn % 2 else place

    def _missing(self, folder: Path, count: int) -> list[int]:
        there = set(os.listdir(folder))
        return [number for number in range(count) if _name(number) not in there]

    def _claim(self, folder: Path, number: int) -> bool:
        """Claim a part, and return whether it is this worker's; a claim of a run with more workers falls to one."""
        claim = folder / f"{number:05d}.claim"
        try:
            claim.symlink_to(str(self.worker))
        except FileExistsError:
            return int(os.readlink(claim)) % self.workers == self.worker
        return True

    def _write(self, folder: Path, compute: Compute, numbers: Iterable[int], most: int | None = None) -> int:
        """Claim those of the parts that are missing when their turn comes, and write each as soon as it is made.

        Return how many there were, `most` at most.
        """
        begun: list[int] = []

        def claimed() -> Iterator[int]:
            for number in numbers:
                if not (folder / _name(number)).exists() and self._claim(folder, number):
                    begun.append(number)
                    yield number
                    if len(begun) == most:
                        return

        before = _shared.set(None)  # what a part does by itself is not shared again
        try:
            for index, part in enumerate(compute(claimed())):
                _save(folder / _name(begun[index]), part)
        finally:
            _shared.reset(before)
        return len(begun)


_shared: ContextVar[SharedParts | None] = ContextVar("_shared", default=None)
_seat: ContextVar[tuple[int, int] | None] = ContextVar("_seat", default=None)  # of a worker that torchrun did not start


def in_parts(compute: Compute, count: int) -> Iterator[Part]:
    """Return the parts of some work in order: computed here, or shared where `kept_in` shares the computation.

    Parameters
    ----------
    compute : callable
        ``compute(numbers)`` yields the part of each number in turn. A part is a tuple of tensors, whose bits depend on
        the number alone.
    count : int
        How many parts there are.

    Returns
    -------
    iterator of tuple of Tensor
        The parts; on the CPU where they are shared.
    """
    work = _shared.get()
    return iter(compute(range(count))) if work is None else work.parts(compute, count)


def is_shared() -> bool:
    """Return whether parts are shared now."""
    return _shared.get() is not None


@single_context
def as_worker(worker: int, workers: int) -> Iterator[None]:
    """Make this process one of several workers inside the block, which torchrun did not start.

    Parameters
    ----------
    worker, workers : int
        Its number, and how many there are.

    Yields
    ------
    None
    """
    before = _seat.set((worker, workers))
    try:
        yield
    finally:
        _seat.reset(before)


def kept_in(
    folder: str | os.PathLike[str],
    made: dict[str, Any],
    tensors: Mapping[str, Sequence[Tensor]],
    compute: Callable[[], Tensor],
) -> Tensor:
    """Return what a computation gives; keep it in a folder, and share its parts among the workers there are.

    Parameters
    ----------
    folder : path
        The folder, which all workers reach. It is made if it is missing. What is complete there is read and not
        computed, and what was begun is completed.
    made : dict
        What the result depends on besides the tensors, plain JSON with one level.
    tensors : mapping of str to sequence of Tensor
        What it is computed from, by name: all bytes are hashed.
    compute : callable
        The computation.

    Returns
    -------
    Tensor
        The result, on the CPU.

    Raises
    ------
    ValueError
        The folder holds something else, with what differs; or a damaged file.
    RuntimeError
        Another rank failed, or another process writes the folder.
    OSError
        The folder cannot be written.
    """
    folder, seat = Path(folder), _seat.get()
    made = made | {name: hash_json([hash_tensor(one) for one in some]) for name, some in tensors.items()}
    made |= {f"version of {name}": _version(name) for name in PACKAGES}
    if seat is not None:
        return _kept(folder, made, compute, SharedParts(folder / PARTS, *seat))
    with Processes() as ranks, writing(folder, is_complete(folder)) if ranks.rank == 0 else nullcontext():
        ranks.wait()
        result = _kept(folder, made, compute, SharedParts(folder / PARTS, ranks.worker, ranks.workers, ranks.check))
        ranks.wait()
        if ranks.rank == 0:
            remove_parts(folder)
    return result


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds the result of a computation."""
    return (folder / RESULT).is_file()


def remove_parts(folder: Path) -> None:
    """Remove the parts of a computation that is complete. No worker may be reading them."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _kept(folder: Path, made: dict[str, Any], compute: Callable[[], Tensor], work: SharedParts) -> Tensor:
    made = json.loads(json.dumps(made, default=str))
    if not (folder / MADE).is_file():
        others = [path for path in folder.glob("*") if not path.name.startswith(".")]
        if folder.is_file() or (others and not (folder / MADE).is_file()):
            raise ValueError(f"{folder} holds something else: give a new folder")
        write_json(folder / MADE, with_seal(made))
    _check_same(folder, made, read_sealed(folder / MADE))
    if (folder / RESULT).is_file():
        return _read(folder / RESULT)[0]
    before = _shared.set(work)
    try:
        result = compute()
    finally:
        _shared.reset(before)
    if work.worker == 0:
        _save(folder / RESULT, (result,))
    return result


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _check_same(folder: Path, made: dict[str, Any], there: dict[str, Any]) -> None:
    wrong = [name for name in made | there if made.get(name) != there.get(name)]
    if wrong:
        old, new = (str(each.get(wrong[0]))[:60] for each in (there, made))
        raise ValueError(
            f"{folder} holds a map that is made differently ({wrong[0]}: there {old}, asked for {new}): give another "
            "folder, and all workers the same features and options"
        )


def _name(number: int) -> str:
    return f"{number:05d}.safetensors"


def _save(path: Path, part: Part) -> None:
    from safetensors.torch import save_file

    tensors = {f"{index}": tensor.detach().cpu().contiguous() for index, tensor in enumerate(part)}
    metadata = sealed(tensors, path.name)
    try:
        write_atomically(path, lambda file: save_file(tensors, file, metadata))
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({cause_of(error)}): make room, then run the same again: parts that are "
            "there are kept"
        ) from None


def _read(path: Path) -> Part:
    try:
        tensors, about, _ = read_tensors(path)
        if about is None:
            raise ValueError("it does not hold the hashes that were written with it")
    except Exception as error:  # safetensors has errors of no common kind
        raise ValueError(f"{path} is damaged ({error}): remove it, then run the same again") from None
    return tuple(tensors[name] for name in sorted(tensors, key=int))
