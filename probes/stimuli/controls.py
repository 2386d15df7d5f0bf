"""Make control stimuli: captions of other images or with scrambled words, and noise seeded by the stimulus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..comparison_options import check_comparison
from ..text_lists import listed_texts
from .stimulus_set import Stimuli, with_texts


def mismatched(stimuli: Stimuli, seed: int = 0) -> Stimuli:
    """Give every image the text of another one: the control that every joint pass needs.

    Each text moves to the next image around one random circle, so that no image keeps its own. The captions of an image
    move together; an image that has more of them than the one before shows some twice.

    Parameters
    ----------
    stimuli : Stimuli
        Of two images or more.
    seed : int
        Seed of the circle.

    Returns
    -------
    Stimuli
        The same images, ids and texts, in the same order of images.

    Raises
    ------
    ValueError
        There is one image alone.

    See Also
    --------
    extract : Shows both modalities in one pass by ``joint=True``, which needs this control.
    map_null : Permutes features of separate passes, without running the model again.

    Examples
    --------
    >>> joint = extract(vlm, stimuli, joint=True)
    >>> control = extract(vlm, mismatched(stimuli), joint=True)
    """
    _check(stimuli, seed)
    images = list(dict.fromkeys(stimuli.groups or stimuli.ids))
    if len(images) < 2:
        raise ValueError("one image cannot be mismatched: give at least two")
    circle = np.random.default_rng(seed).permutation(len(images))
    others = dict(zip(circle, np.roll(circle, 1), strict=True))
    texts: dict[str, list[str]] = {}
    for image, text in zip(stimuli.groups or stimuli.ids, stimuli.texts, strict=True):
        texts.setdefault(image, []).append(text)
    given = {image: cycle(texts[images[others[place]]]) for place, image in enumerate(images)}
    moved = [next(given[image]) for image in stimuli.groups or stimuli.ids]
    return with_texts(stimuli, moved, f"{stimuli.name} mismatched")


def scrambled(stimuli: Stimuli, seed: int = 0) -> Stimuli:
    """Give every caption its own words in another order: what a model of bags of words would not notice.

    Words are what blanks separate. Marks without a letter or digit, such as a comma that stands alone, keep their
    places. A caption whose words have one order only stays as it is.

    Parameters
    ----------
    stimuli : Stimuli
        Of captions of several words.
    seed : int
        Seed of the orders, which also depend on the id of each stimulus and on nothing else of the set.

    Returns
    -------
    Stimuli
        The same images and ids, in the same order.

    Raises
    ------
    ValueError
        No caption has words that could stand otherwise.

    See Also
    --------
    mismatched : Gives every image a whole caption of another one.

    Examples
    --------
    >>> scrambled(scene_stimuli("evidence", 2)).texts
    """
    _check(stimuli, seed)
    texts = [_scrambled(text, id, seed) for text, id in zip(stimuli.texts, stimuli.ids, strict=True)]
    if texts == list(stimuli.texts):
        raise ValueError(f"no caption of {stimuli.name!r} has words to scramble: give captions of several words")
    return with_texts(stimuli, texts, f"{stimuli.name} scrambled")


def _check(stimuli: object, seed: int) -> None:
    checked("stimuli", stimuli, Stimuli, remedy="pass what load_stimuli returns")
    check_comparison(seed=seed)


def _scrambled(text: str, id: str, seed: int) -> str:
    words = text.split()
    places = [place for place, word in enumerate(words) if any(letter.isalnum() for letter in word)]
    moved = [words[place] for place in places]
    if len(set(moved)) < 2:
        return text
    rng = np.random.default_rng([seed, *hashlib.sha256(id.encode()).digest()[:8]])
    while moved == [words[place] for place in places]:
        moved = [moved[place] for place in rng.permutation(len(moved))]
    for place, word in zip(places, moved, strict=True):
        words[place] = word
    return " ".join(words)


def noise_for(ids: Sequence[str], shape: tuple[int, ...]) -> Tensor:
    """Draw Gaussian noise for each stimulus, as a function of its id alone.

    Parameters
    ----------
    ids : sequence of str
        Ids of the stimuli.
    shape : tuple of int
        Shape of one stimulus's noise.

    Returns
    -------
    torch.Tensor
        (stimulus, *shape), float32.

    Raises
    ------
    TypeError
        The ids are no texts, or the shape holds no whole numbers.
    ValueError
        There are no ids, or the shape is empty or holds a number below 1.
    """
    if not (ids := listed_texts("ids", ids, "a list of the ids of stimuli")):
        raise ValueError("ids is empty: expected the id of each stimulus")
    shape = checked("shape", shape, Sequence[int], least=1)
    seeds = [int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") for i in ids]
    return torch.from_numpy(
        np.stack([np.random.default_rng(s).standard_normal(shape, dtype=np.float32) for s in seeds])
    )
