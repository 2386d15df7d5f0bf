"""Describe how features were made, in plain JSON: the model and its weights, the stimuli, the versions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..fingerprints.described_values import digest
from ..fingerprints.running_state import describe_model, describe_preprocessing
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject, modules_of

PACKAGES = ("bridgework", "torch", "transformers", "diffusers")
PLAIN = (str, int, float, bool)


def made_of(subject: Subject, stimuli: Stimuli, options: dict[str, Any]) -> dict[str, Any]:
    """Describe all that must be equal for two sets of features to be the same.

    A subject is described by every module that it holds (a text encoder beside the model) with all bytes of its weights
    (probes/fingerprints/), by its plain attributes, and by what it makes inputs with: processors, tokenizers,
    schedulers, functions (probes/fingerprints/preprocessing_hash.py).

    Parameters
    ----------
    subject : Subject
        The subject.
    stimuli : Stimuli
        The stimuli.
    options : dict
        The options of the extraction, as plain JSON.

    Returns
    -------
    dict
        Subject, stimuli, options and versions, as plain JSON.
    """
    modules = modules_of(subject)
    return {
        "subject": {
            "name": subject.name,
            "models": {name: describe_model(module) for name, module in modules.items()},
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in sorted(getattr(subject, "__dict__", {}).items())
                if not name.startswith("_") and (isinstance(value, PLAIN) or _plain_tuple(value))
            },
            "preprocessing": describe_preprocessing(subject),
        },
        "stimuli": stimuli.name,
        "stimuli_digest": stimuli.digest,
        **options,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def opened_from(subject: Subject, models: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return where a subject was opened from, and a digest of its weights, so that a plan can name its experts.

    Parameters
    ----------
    subject : Subject
        What `open_expert` returned, or a subject of your own.
    models : mapping, optional
        The description of each of its modules, as `made_of` has it, where it is there already.

    Returns
    -------
    dict of str
        {"opened": a folder or Hub id, "weights": 16 hex digits}; {} where the name says it, as of a shipped expert, or
        where nobody knows.
    """
    source = getattr(subject, "_opened_from", None)
    if source is None:
        return {}
    models = models or {name: describe_model(module) for name, module in modules_of(subject).items()}
    return {"opened": source, "weights": digest({name: model["weights"] for name, model in models.items()})}


def _plain_tuple(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, PLAIN) for item in value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
