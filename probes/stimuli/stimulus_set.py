"""Hold stimuli, the paired images and texts that are shown to every subject.

Every image and caption is checked once, when the set is made, so that nothing fails hours later in the middle of an
extraction. Afterwards an image is decoded again each time it is read, so that a large folder does not have to fit into
memory. Where stimuli come from: probes/stimuli/sources.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, overload

from PIL import Image
from tqdm import tqdm

from ..notebook_views import table_view, thumbnails


class Stimulus(NamedTuple):
    """One image with its text.

    Attributes
    ----------
    image : PIL.Image.Image
        An RGB image of any size.
    text : str
        The text that belongs to the image.
    id : str
        A name that no other stimulus of the set has.
    """

    image: Image.Image
    text: str
    id: str


class CheckedStimulus(NamedTuple):
    """A stimulus that has passed all checks.

    Attributes
    ----------
    image : PIL.Image.Image or callable
        The image, or a function that reads it.
    text, id : str
        As of `Stimulus`.
    digest : str
        The sha256 (hex) of id, text, size and pixels.
    shows : str
        What it shows, whatever its id: 16 hex digits of the text's sha256, a space, and 16 of the image's.
    """

    image: Image.Image | Callable[[], Image.Image]
    text: str
    id: str
    digest: str
    shows: str


class Stimuli(Sequence[Stimulus]):
    """An ordered, checked set of stimuli. A slice of it is a `Stimuli` again.

    Parameters
    ----------
    samples : iterable of Stimulus
        Stimuli, or (image, text, id) tuples. Images that are not RGB are laid over white and converted.
    name : str
        A label of the set.

    Attributes
    ----------
    digest : str
        A sha256 (hex) over all ids, texts, image sizes and pixels, in order. Two sets with the same digest show a
        subject the same thing.
    ids, texts : tuple of str
        The id and the text of each stimulus, in order.
    digests : tuple of str
        What each stimulus shows, whatever its id: a hash of the text, a space, and a hash of the image.

    Raises
    ------
    ValueError
        The set is empty, two ids are equal, a caption is blank, or an image has no 8-bit colours.
    TypeError
        An image, caption or id has the wrong type.
    """

    def __init__(self, samples: Iterable[Stimulus | CheckedStimulus], name: str = "stimuli"):
        self.name = name
        bar = tqdm(samples, "checking stimuli", unit="image", delay=2, leave=False, disable=None)
        self._entries = tuple(s if isinstance(s, CheckedStimulus) else _check_sample(s, i) for i, s in enumerate(bar))
        if not self._entries:
            raise ValueError(f"stimuli {name!r} are empty: expected at least one image with its text")
        ids: set[str] = set()
        for entry in self._entries:
            if entry.id in ids:
                raise ValueError(
                    f"stimuli {name!r} hold the id {entry.id!r} twice: give every image one text and its own id"
                )
            ids.add(entry.id)
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
        image, text, id, _, shows = self._entries[index]
        if not isinstance(image, Image.Image):
            image = image()
            if _hash_pixels(image) != shows.split()[1]:
                raise ValueError(
                    f"the image {id!r} of stimuli {self.name!r} is another than when it was loaded: make the stimuli "
                    "again if its file has changed; if its dataset draws at random (augmentation), switch that off"
                )
        return Stimulus(image, text, id)

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each stimulus, in order."""
        return tuple(entry.id for entry in self._entries)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each stimulus, in order."""
        return tuple(entry.text for entry in self._entries)

    @property
    def digests(self) -> tuple[str, ...]:
        """What each stimulus shows, in order, as `CheckedStimulus.shows`."""
        return tuple(entry.shows for entry in self._entries)

    def __repr__(self) -> str:
        return f"Stimuli({self.name!r}, {len(self)} samples, digest {self.digest[:12]})"

    def _repr_html_(self) -> str:
        title = f"{self.name}: {len(self)} stimuli, digest {self.digest[:12]}"
        return table_view(title, {"the first": thumbnails((image, text) for image, text, _ in self)})


def _check_sample(sample: Any, position: int) -> CheckedStimulus:
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
    return check_stimulus(to_rgb(image, where), text, id, where)


def check_stimulus(
    image: Image.Image | Callable[[], Image.Image], text: object, id: str, where: str
) -> CheckedStimulus:
    """Check the caption of one stimulus and hash what it shows.

    Parameters
    ----------
    image : PIL.Image.Image or callable
        An RGB image, or a function that reads one. The image is read once.
    text : object
        The caption.
    id : str
        The stimulus's id.
    where : str
        Where the stimulus stands, for error messages.

    Returns
    -------
    CheckedStimulus
        The stimulus with its hash.

    Raises
    ------
    TypeError
        The caption is no string.
    ValueError
        The caption is blank.
    """
    if not isinstance(text, str):
        raise TypeError(f"the caption of {where} is a {type(text).__name__}: expected one string per image")
    if not text.strip():
        raise ValueError(f"the caption of {where} is blank: write one, or leave the image out")
    pixels = image if isinstance(image, Image.Image) else image()
    # JSON keeps the fields apart: without it ("ab", "c") and ("a", "bc") would share a digest.
    label, colours = json.dumps([id, text, pixels.size]).encode(), pixels.tobytes()
    shows = f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]} {_hash_pixels(pixels)}"
    return CheckedStimulus(image, text, id, hashlib.sha256(label + colours).hexdigest(), shows)


def _hash_pixels(image: Image.Image) -> str:
    found = hashlib.sha256(str(image.size).encode())
    found.update(image.tobytes())
    return found.hexdigest()[:16]


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Convert an image to RGB, with white behind what is transparent.

    Parameters
    ----------
    image : PIL.Image.Image
        An image of any mode with 8 bits a channel or less.
    where : str
        Where the image stands, for error messages.

    Returns
    -------
    PIL.Image.Image
        The image in RGB.

    Raises
    ------
    ValueError
        The image has more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        # PIL would clip these to 0..255 without a word, and leave a white image.
        raise ValueError(f"the image of {where} has mode {image.mode!r}: expected 8 bits a channel, convert it first")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")
