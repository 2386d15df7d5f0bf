"""Say where the name of an expert leads, without a library that opens it: what is wrong with a name is said at once."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ....probes.arguments import file_name, unknown
from . import weights

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
# Our own experts, with the steps that each was trained for.
STEPS = {"scenes-vlm": 4000, "scenes-reader": 2000, "scenes-dit": 12000, "scenes-dit-wide": 12000, "emoji-dit": 4000}
OWN = tuple(STEPS)
PATIENCE = 3  # seconds that the Hub has to answer before it is taken for unreachable


def source_of(name: str | Path, checkpoints: Path = CHECKPOINTS, more: Iterable[str] = ()) -> str:
    """Return the local folder behind the name of an expert, or the name itself where it is a Hub id.

    A folder that is missing is never asked of the Hub: a Hub id must lie in its cache, or the Hub must be reachable.

    Parameters
    ----------
    name : str or Path
        A shipped or a fetched expert, a local folder, or a Hub id.
    checkpoints : Path, optional
        The folder of the shipped experts.
    more : iterable of str, optional
        Further names that the caller knows; they are returned as they are.

    Returns
    -------
    str
        The folder or the Hub id.

    Raises
    ------
    FileNotFoundError
        The folder is missing, the expert was not fetched, or nothing of this id is in the cache of a Hub that cannot
        be reached.
    ValueError
        The name is unknown, or is that of a file.
    TypeError
        It is no name.
    """
    path, text = file_name("the name of the expert", name), str(name)
    if text in more:
        return text
    if text in OWN:
        if not (checkpoints / text).is_dir():
            raise FileNotFoundError(
                f"the shipped expert {text!r} is not in {checkpoints.name}/: install bridgework again"
            )
        return str(checkpoints / text)
    if text in weights.WEIGHTS:
        return str(weights.verify(text))
    if path.is_dir():
        if not any((path / part).exists() for part in ("config.json", "model_index.json", "transformer")):
            raise FileNotFoundError(
                f"expert folder {text} has neither a config.json nor a transformer/ folder: name the folder that "
                "save_pretrained wrote"
            )
        return str(path)
    if path.is_file():
        raise ValueError(f"{text} is a file: name the folder of the expert, with its config, weights and tokenizer")
    known = (*more, *OWN, *weights.WEIGHTS)
    if "/" not in text and "\\" not in text:
        names = unknown("expert", text, known)
        raise ValueError(f"{names}; or name a local folder, or a Hub id 'owner/name'")
    remedy = f"name a folder that is there, one of {', '.join(known)}, or a Hub id 'owner/name' that was fetched"
    if text.count("/") > 1 or text.startswith((".", "/", "~")) or "\\" in text:
        raise FileNotFoundError(f"there is no folder {text}: {remedy}")
    if why := _why_unread(text):
        raise FileNotFoundError(f"there is no folder {text}, and {why}: {remedy} by `hf download {text}`")
    return text


def _why_unread(repository: str) -> str | None:
    """Return why a Hub id cannot be read, or None where it lies in the cache or the Hub can be asked."""
    from huggingface_hub import constants

    owner, name = repository.split("/")
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{owner}--{name}" / "snapshots"
    if snapshots.is_dir() and any(snapshots.iterdir()):
        return None
    nothing = "no model of this id lies in the Hub's cache"
    if Path(owner).is_dir():
        return f"{nothing}, while there is a folder {owner}"
    if constants.HF_HUB_OFFLINE:
        return f"{nothing}, which is all that HF_HUB_OFFLINE leaves"
    if not (getproxies().get("https") or _answers(constants.ENDPOINT)):
        return f"{nothing}, and {constants.ENDPOINT} does not answer within {PATIENCE} s"
    return None


def _answers(endpoint: str) -> bool:
    """Return whether a server takes connections; a name server that is silent counts as silence."""
    parts = urlsplit(endpoint)
    address = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    found: list[Any] = []

    def connect() -> None:
        try:
            with socket.create_connection(address, timeout=PATIENCE):
                found.append(True)
        except OSError:
            return

    asking = Thread(target=connect, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(found)
