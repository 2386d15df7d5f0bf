"""Stimuli: the paired images and texts shown to every subject.

Four sources: the bundled Noto emoji with their English names, a fetched picture set, an image folder with
`metadata.jsonl`, and a `datasets.Dataset`. Every image and caption is checked once when the set is made, so that
nothing fails hours later in the middle of an extraction; afterwards images are decoded again each time they are asked
for, so that a large folder does not have to fit into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, overload

from PIL import Image
from tqdm import tqdm


class Stimulus(NamedTuple):
    """One pair: an RGB image (width x height, any size), the text that belongs to it, and its id within the set."""

    image: Image.Image
    text: str
    id: str


class _Entry(NamedTuple):
    """A checked stimulus: its image or the way to read it, and the sha256 (hex) of its id, text and pixels."""

    image: Image.Image | Callable[[], Image.Image]
    text: str
    id: str
    digest: str


class Stimuli(Sequence[Stimulus]):
    """An ordered, checked set of `Stimulus`; a slice is a `Stimuli` again.

    `samples` are stimuli or (image, text, id) tuples; images that are not RGB are laid over white and converted.
    `name` labels the set. `digest` is a sha256 (hex) over all ids, texts, image sizes and pixels, in order: two sets
    with the same digest show a subject the same thing.

    Raises ValueError for an empty set, two equal ids, a blank caption or an image without 8-bit colours, and TypeError
    for an image, caption or id of the wrong type.
    """

    def __init__(self, samples: Iterable[Stimulus | _Entry], name: str = "stimuli"):
        self.name = name
        bar = tqdm(samples, "checking stimuli", unit="image", delay=2, leave=False, disable=None)
        self._entries = tuple(s if isinstance(s, _Entry) else _stimulus_entry(s, i) for i, s in enumerate(bar))
        if not self._entries:
            raise ValueError(f"stimuli {name!r} are empty: expected at least one image with its text")
        seen: set[str] = set()
        for entry in self._entries:
            if entry.id in seen:
                raise ValueError(
                    f"stimuli {name!r} hold the id {entry.id!r} twice: give every image one text and its own id"
                )
            seen.add(entry.id)
        self.digest = hashlib.sha256("".join(e.digest for e in self._entries).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Stimulus: ...
    @overload
    def __getitem__(self, index: slice) -> Stimuli: ...
    def __getitem__(self, index: int | slice) -> Stimulus | Stimuli:
        if isinstance(index, slice):
            return Stimuli(self._entries[index], self.name)
        image, text, id, _ = self._entries[index]
        return Stimulus(image if isinstance(image, Image.Image) else image(), text, id)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(entry.id for entry in self._entries)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(entry.text for entry in self._entries)

    def __repr__(self) -> str:
        return f"Stimuli({self.name!r}, {len(self)} samples, digest {self.digest[:12]})"


def _stimulus_entry(sample: Any, position: int) -> _Entry:
    try:
        image, text, id = sample
    except (TypeError, ValueError):
        kind = type(sample).__name__
        raise TypeError(f"sample {position} is a {kind}: expected a Stimulus(image, text, id)") from None
    where = f"sample {position}"
    if not isinstance(id, str):
        raise TypeError(f"the id of {where} is a {type(id).__name__}: expected a string")
    if not isinstance(image, Image.Image):
        raise TypeError(f"the image of {where} is a {type(image).__name__}: expected a PIL.Image.Image")
    return _entry(_rgb(image, where), text, id, where)


def _entry(image: Image.Image | Callable[[], Image.Image], text: object, id: str, where: str) -> _Entry:
    if not isinstance(text, str):
        raise TypeError(f"the caption of {where} is a {type(text).__name__}: expected one string per image")
    if not text.strip():
        raise ValueError(f"the caption of {where} is blank: write one, or leave the image out")
    pixels = image if isinstance(image, Image.Image) else image()
    # JSON keeps the fields apart: without it ("ab", "c") and ("a", "bc") would share a digest.
    label = json.dumps([id, text, pixels.size]).encode()
    return _Entry(image, text, id, hashlib.sha256(label + pixels.tobytes()).hexdigest())


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # PIL would clip these to 0..255 without a word, and leave a white image.
        raise ValueError(f"the image of {where} has mode {image.mode!r}: expected 8 bits a channel, convert it first")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")
