"""Hold the features of one subject: what `extract` returns and every measurement takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arguments import checked
from .layer_features import LayerFeatures
from .store import load, save


@dataclass(frozen=True, eq=False)
class Features(Mapping[str, LayerFeatures]):
    """Pooled hidden states of one subject, by modality: `features["image"]`, `features["text"]`.

    Attributes
    ----------
    modalities : dict of LayerFeatures
        The features of each modality.
    provenance : dict
        How the features were made (model, stimuli, batches, versions, ...), as plain JSON. Under "truncated" stand the
        stimuli whose caption was cut, by id, with the number of tokens that it was cut at (None where that is unknown).

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        Features stand under the name of another modality.
    KeyError
        A modality is asked for that is not there.

    See Also
    --------
    LayerFeatures : Holds one modality, which is what comparisons take.
    extract : Makes features from a model.
    read_hidden_states : Makes them from files that a server of language models wrote.
    """

    modalities: dict[str, LayerFeatures]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked("modalities", self.modalities, Mapping, remedy="name LayerFeatures by their modality")
        checked("provenance", self.provenance, Mapping)
        for name, part in self.modalities.items():
            checked(f"the part {name!r} of modalities", part, LayerFeatures)
            if part.modality != name:
                raise ValueError(f"the features under {name!r} are of {part.modality!r}: name each by its modality")

    def __getitem__(self, modality: str) -> LayerFeatures:
        if modality not in self.modalities:
            raise KeyError(f"no {modality!r} features: there are {', '.join(self.modalities) or 'none'}")
        return self.modalities[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)

    def _repr_html_(self) -> str:
        parts = "".join(part._repr_html_() for part in self.values())
        return f"<div>{parts}</div>"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a feature store (probes/features/store.py). Equal features give equal bytes.

        Parameters
        ----------
        folder : str or os.PathLike
            The store's folder. It is made if it is missing.

        Raises
        ------
        TypeError
            An argument is of another kind.
        ValueError
            The folder holds other features, or the modalities have different stimuli.
        OSError
            The folder cannot be written.
        """
        checked("folder", folder, str | os.PathLike, remedy="it is the folder of the store")
        save(self, self.provenance, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Features:
        """Open a feature store. Values are read when they are first used.

        Parameters
        ----------
        folder : str or os.PathLike
            The store's folder.

        Returns
        -------
        Features
            The features.

        Raises
        ------
        TypeError
            An argument is of another kind.
        FileNotFoundError
            There is no store, or its extraction has not ended.
        ValueError
            The store was written by another version, or a file in it is damaged or of another kind.
        """
        checked("folder", folder, str | os.PathLike, remedy="it is the folder of the store")
        return cls(*load(folder))
