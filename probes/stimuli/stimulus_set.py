"""Hold stimuli, the paired images and texts that are shown to every subject.

Every image and caption is checked once, when the set is made, so that nothing fails hours later in the middle of an
extraction. Afterwards an image is decoded again each time it is read, so that a large folder does not have to fit into
memory. Where stimuli come from: probes/stimuli/sources.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

from PIL import Image
from tqdm.auto import tqdm

from ..arguments import HALVES, checked
from ..notebook_views import table_view, thumbnails
from .images import to_rgb
from .parts import PARTS, part_of

PLACEHOLDER = re.compile(
    r"<\|\w+\|>|</?(start_of_|end_of_)?(image|img|im|video|vid|audio|vision|speech)(_\w+)?>", re.IGNORECASE
)


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

    See Also
    --------
    Stimuli : Holds many of these in order, checked.
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
    group : str
        The image, where it stands with several captions; "" where each image has one.
    dealt_by : str
        What decides its part; "" for the image.
    """

    image: Image.Image | Callable[[], Image.Image]
    text: str
    id: str
    digest: str
    shows: str
    group: str = ""
    dealt_by: str = ""


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
    groups : tuple of str
        The image that each stimulus is a caption of; () where every image has one caption.
    parts : tuple of str
        The part that each stimulus belongs to, as `part` deals them.

    Raises
    ------
    ValueError
        The set is empty, two ids are equal, an image has no pixels or no 8-bit colours, or a caption is blank or holds
        a control word of models, such as <image>.
    TypeError
        An image, caption or id has the wrong type.

    See Also
    --------
    load_stimuli : Opens files, tables and data sets, and makes this of them.
    mismatched : Gives each image the text of another one, as a control.
    """

    def __init__(self, samples: Iterable[Stimulus | CheckedStimulus], name: str = "stimuli"):
        self.name = checked("name", name, str)
        checked("samples", samples, Iterable, remedy="pass (image, text, id) of each stimulus")
        if isinstance(samples, str | bytes | Mapping):
            raise TypeError(f"samples is a {type(samples).__name__}: expected (image, text, id) of each stimulus")
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
        checked("index", index, int, remedy="it is the place of a stimulus, or a slice of places")
        image, text, id, _, shows, *_ = self._entries[index]
        if not isinstance(image, Image.Image):
            image = image()
        if _hash_pixels(image) != shows.split()[1]:
            raise ValueError(
                f"the image {id!r} of stimuli {self.name!r} is another than when it was loaded: make the stimuli "
                "again if its file has changed or it was drawn into; if its dataset draws at random (augmentation), "
                "switch that off"
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

    @property
    def groups(self) -> tuple[str, ...]:
        """The image that each stimulus is a caption of, in order; () where every image has one caption."""
        return tuple(entry.group for entry in self._entries) if any(entry.group for entry in self._entries) else ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The part of each stimulus, in order."""
        images = {entry.shows.split()[1] for entry in self._entries}
        alike = len(images) == 1 and not self.groups  # texts beside one blank image
        keys = (e.dealt_by or (e.text if alike else e.shows.split()[1]) for e in self._entries)
        return tuple(part_of(key) for key in keys)

    def part(self, name: str) -> Stimuli:
        """Return one part of the stimuli, and say in one line how many pairs are in each.

        70 % of the images are in "train" and 10 % each in "evidence" (for curves, maps and plans), "validation" and
        "test", as of scenes. An image's part is decided by a hash of its pixels. So all captions of an image are in one
        part, the same image is in the same part in any order, file or form, and training on the same data by a recipe
        takes the same parts. Emoji, the sets of pictures and scenes are dealt by their texts, as the shipped experts
        were trained.

        Parameters
        ----------
        name : str
            "train", "evidence", "validation" or "test".

        Returns
        -------
        Stimuli
            The stimuli of that part, in their order. Their name ends on that of the part.

        Raises
        ------
        TypeError
            The name of the part is no text.
        ValueError
            The part is unknown, or no stimulus belongs to it.

        See Also
        --------
        load_stimuli : Opens the data that are dealt.

        Examples
        --------
        >>> load_stimuli("noto").part("evidence")
        1,392 pairs of 'noto': 963 train, 150 evidence, 148 validation, 131 test
        Stimuli('noto-evidence', 150 samples, digest 252b9ef4bde2)
        """
        checked("part", name, str, known=PARTS)
        parts = self.parts
        counts = ", ".join(f"{parts.count(part):,} {part}" for part in PARTS)
        if name not in parts:
            raise ValueError(f"no pair of {self.name!r} belongs to the part {name!r} ({counts}): use more images")
        images = f" of {len(set(self.groups)):,} images" if self.groups else ""
        if os.environ.get("RANK", "0") == "0":  # one of the processes that torchrun starts
            print(f"{len(self):,} pairs{images} of {self.name!r}: {counts}")
        chosen = [entry for entry, part in zip(self._entries, parts, strict=True) if part == name]
        return Stimuli(chosen, f"{self.name}-{name}")

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
        The caption is blank, or holds half of a character or a control word of models; the image has no pixels.
    """
    if not isinstance(text, str):
        raise TypeError(f"the caption of {where} is a {type(text).__name__}: expected one string per image")
    if not text.strip():
        raise ValueError(f"the caption of {where} is blank: write one, or leave the image out")
    for what, words in (("caption", text), ("id", id)):
        if half := HALVES.search(words):
            raise ValueError(
                f"the {what} of {where} holds half of a character, {half[0]!r} at letter {half.start()}: read the file "
                "again as UTF-8"
            )
    if word := PLACEHOLDER.search(text):
        raise ValueError(
            f"the caption of {where} holds {word[0]!r}, which models take for the place of an image or for a control "
            "token: leave the word out"
        )
    pixels = image if isinstance(image, Image.Image) else image()
    # JSON keeps the fields apart: without it ("ab", "c") and ("a", "bc") would share a digest.
    label, colours = json.dumps([id, text, pixels.size]).encode(), pixels.tobytes()
    shows = f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]} {_hash_pixels(pixels)}"
    return CheckedStimulus(image, text, id, hashlib.sha256(label + colours).hexdigest(), shows)


def dealt_by_texts(stimuli: Stimuli) -> Stimuli:
    """Let parts go by the texts: an emoji has the same name in several sets, and a scene has the part of its caption.

    Parameters
    ----------
    stimuli : Stimuli
        The stimuli.

    Returns
    -------
    Stimuli
        The same stimuli, whose `parts` follow their texts.
    """
    return Stimuli([entry._replace(dealt_by=entry.text) for entry in stimuli._entries], stimuli.name)


def first_captions(stimuli: Stimuli) -> Stimuli:
    """Keep the first caption of each image, under the name of the image.

    Parameters
    ----------
    stimuli : Stimuli
        Stimuli with groups.

    Returns
    -------
    Stimuli
        One stimulus an image, in the order in which images first come.
    """
    first = {entry.group: entry for entry in reversed(stimuli._entries)}
    return Stimuli([first[image]._replace(id=image, group="") for image in dict.fromkeys(stimuli.groups)], stimuli.name)


def with_texts(stimuli: Stimuli, texts: Sequence[str], name: str) -> Stimuli:
    """Give every stimulus another text.

    Parameters
    ----------
    stimuli : Stimuli
        The stimuli.
    texts : sequence of str
        The text of each.
    name : str
        The label of the new set.

    Returns
    -------
    Stimuli
        The same images with the same ids, groups and parts.
    """
    entries = []
    for number, (entry, text) in enumerate(zip(stimuli._entries, texts, strict=True)):
        checked = check_stimulus(stimuli[number].image, text, entry.id, f"sample {number}")
        entries.append(checked._replace(image=entry.image, group=entry.group, dealt_by=entry.dealt_by))
    return Stimuli(entries, name)


def _hash_pixels(image: Image.Image) -> str:
    found = hashlib.sha256(str(image.size).encode())
    found.update(image.tobytes())
    return found.hexdigest()[:16]
