"""Pooled hidden states with everything needed to read them: what `extract` returns and every measurement takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .layer_features import LayerFeatures
from .store import load, save


@dataclass(frozen=True, eq=False)
class Features(Mapping[str, LayerFeatures]):
    """The features of one subject, by modality: `seen["image"]`, `seen["text"]`.

    Attributes:
        modalities: LayerFeatures by modality.
        provenance: plain JSON about how they were made (model, stimuli, batches, versions, ...).
    """

    modalities: dict[str, LayerFeatures]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part in self.modalities.items():
            if part.modality != name:
                raise ValueError(f"features under {name!r} say that their modality is {part.modality!r}")

    def __getitem__(self, modality: str) -> LayerFeatures:
        if modality not in self.modalities:
            raise KeyError(f"no {modality!r} features: there are {', '.join(self.modalities) or 'none'}")
        return self.modalities[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a feature store (probes/features/store.py); equal features give equal bytes.

        Raises:
            ValueError: the folder holds other features. OSError: it cannot be written.
        """
        save(self, self.provenance, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Features:
        """Open a feature store; values are read when they are asked for.

        Raises:
            FileNotFoundError: no store, or one whose extraction has not ended.
            ValueError: a store of another version, or a file in it that is damaged or of another kind.
        """
        return cls(*load(folder))
