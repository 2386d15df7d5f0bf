"""Write files whole or not at all, and find the folder for what is downloaded once."""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

PARTIAL = ".partial"  # how the names of temporary folders end


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file so that readers see the old one or the new one, never a part.

    This holds when the process is killed and when power is lost, at any moment. `remove_partial_files` removes what
    such an end leaves behind.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write. Its folder is made if it is missing.
    write : callable
        `write(temporary)` fills a file of the same name in a temporary folder beside `path`. The file is then moved
        into place.

    Raises
    ------
    OSError
        The file cannot be written, as on a full disk. What was there before is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as folder:  # libraries may put more files beside it
            write(folder / path.name)
            os.chmod(folder / path.name, 0o644)
            _sync(folder / path.name)
            os.replace(folder / path.name, path)
        _sync(path.parent)
    except Exception as error:
        if not is_of_the_system(error):
            raise
        raise OSError(
            f"{path} cannot be written ({error}): make room there or name another place, then run the same again; what "
            "was there before is as it was"
        ) from error


def write_folder(path: str | os.PathLike[str], fill: Callable[[Path], object]) -> None:
    """Write a folder so that it is never there in part: the new one takes the place of the old one.

    Parameters
    ----------
    path : str or os.PathLike
        The folder to write.
    fill : callable
        `fill(temporary)` puts files into an empty folder. It is then moved into place.

    Raises
    ------
    OSError
        The folder cannot be written. What was there before is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as folder:
            (folder / "new").mkdir()
            fill(folder / "new")
            if path.exists():
                os.replace(path, folder / "old")
            try:
                os.replace(folder / "new", path)
            except OSError:
                if (folder / "old").exists():
                    os.replace(folder / "old", path)
                raise
    except Exception as error:
        if not is_of_the_system(error):
            raise
        raise OSError(
            f"the folder {path} cannot be written ({cause_of(error)}): make room there or name another place, then "
            "run the same again; what was there before is as it was"
        ) from error


def is_of_the_system(error: Exception) -> bool:
    """Return whether the system refused to write: libraries in Rust wrap its errors into their own."""
    return isinstance(error, OSError) or "(os error " in str(error)


def cause_of(error: Exception) -> BaseException:
    """Return what the system said where `write_atomically` failed, for a caller that says more about it."""
    return error.__cause__ or error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Make a folder beside a path, and remove it afterwards; what dead processes have left for the path goes too."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_here()}-*{PARTIAL}"):
        if not _lives(int(left.name.rpartition(f".{_here()}-")[2].partition(".")[0])):
            shutil.rmtree(left, ignore_errors=True)
    prefix = f".{path.name}.{_here()}-{os.getpid()}."
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=PARTIAL))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _here() -> str:
    """Return eight digits that stand for this machine, or for the container that numbers its processes."""
    try:
        numbers = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        numbers = 0
    return f"{zlib.crc32(f'{socket.gethostname()} {numbers}'.encode()):08x}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame, **options: Any) -> None:
    """Write a table as CSV, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    table : pandas.DataFrame
        The table. Its index is left out unless `options` asks for it.
    **options
        Options of `DataFrame.to_csv`.
    """
    write_atomically(path, lambda file: table.to_csv(file, **{"index": False, **options}))


def write_parquet(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all, with a checksum of every page.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    table : pandas.DataFrame
        The table.
    """
    write_atomically(path, partial(table.to_parquet, write_page_checksum=True))


def read_parquet(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table that `write_parquet` wrote, and check its pages where they have checksums.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    pandas.DataFrame
        The table.

    Raises
    ------
    ValueError
        The file is damaged, or no Parquet.
    FileNotFoundError
        There is no such file.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow has errors of no common kind
        raise ValueError(
            f"{path} is damaged, or no Parquet file: remove it, then run what wrote it again "
            f"({str(error).splitlines()[0]})"
        ) from None


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as JSON, indented by two spaces, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    value : object
        Anything that `json.dumps` takes.
    """
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def remove_partial_files(path: str | os.PathLike[str]) -> None:
    """Remove what killed writers of a file left beside it.

    Parameters
    ----------
    path : str or os.PathLike
        The file that they were writing. Nobody may be writing it now.
    """
    for folder in Path(path).parent.glob(f".{Path(path).name}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def remove_all_partial_files(folder: Path) -> None:
    """Remove what killed writers left anywhere in a folder. Nobody may be writing into it now."""
    for left in [*folder.rglob(f".*{PARTIAL}")]:
        shutil.rmtree(left, ignore_errors=True)


def home() -> Path:
    """Return the folder for downloaded weights and pictures.

    Returns
    -------
    pathlib.Path
        `$BRIDGEWORK_HOME`, or ~/.cache/bridgework where that is not set.
    """
    return Path(os.environ.get("BRIDGEWORK_HOME") or Path.home() / ".cache" / "bridgework").expanduser().absolute()


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
