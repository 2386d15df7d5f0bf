"""Cut an extraction into batches and shards, each of which any process can make by its number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..extraction_options import ExtractionOptions
from ..features.features import Features
from ..features.lazy_values import features_of
from ..features.shards import FORMAT, Shard, open_shard, read_metadata, read_tensor, shapes_of
from ..features.store import existing_shards, shard_path, write_numbered_shard
from ..features.store_index import index_of
from ..fingerprints.described_values import config_digest
from ..fingerprints.running_state import within_passes
from ..reading.generated_tokens import generation_settings
from ..stimuli.stimulus_set import Stimuli
from ..subjects.sink_tokens import join_norms, warn_of_sinks
from ..subjects.subject import Subject, denoised_modalities, modules_of, prepared
from ..workers.devices import chosen_device
from ..workers.processes import Processes
from .checking import KeptStimulus, batch_to_check, check_stimulus
from .memory_shortage import BatchSize
from .options import check_shown, fitted, recorded
from .passes import PassRunner, concatenate_batches
from .pooling import pooling_of
from .provenance import made_of, opened_from

BATCHES = 8  # in a shard; 1 where all tokens are kept
LOOKED_AT = 4  # stimuli by which a subject finds what is denoised: the longest, for a short text may have no noise


def shard_count(samples: int, batch_size: int, pooling: str) -> int:
    """Return how many shards an extraction has.

    Parameters
    ----------
    samples : int
        How many stimuli there are.
    batch_size : int
        How many stimuli are shown at once.
    pooling : str
        The pooling of the extraction.

    Returns
    -------
    int
        The number of shards.
    """
    return -(-samples // (batch_size * batches_each(pooling)))


def batches_each(pooling: str) -> int:
    """Return how many batches a shard holds with this pooling."""
    return 1 if pooling == "none" else BATCHES


@dataclass(frozen=True)
class ExtractionJob:
    """Hold an extraction that is cut into shards, which any process can make by number, in any order.

    Attributes
    ----------
    passes : PassRunner
        Runs the passes over one batch.
    stimuli : Stimuli
        What the subject is shown.
    batches : tuple of tuple of int
        The positions of the stimuli of each batch.
    lengths : tuple of int
        The length of each stimulus's text; 0 where none is read.
    device : str
        The device that the subject runs on.
    provenance : dict
        What the features are made of, plain JSON.
    checked : set of int
        The batches of which a stimulus was shown again.
    """

    passes: PassRunner
    stimuli: Stimuli
    batches: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    device: str
    provenance: dict[str, Any]
    checked: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return -(-len(self.batches) // batches_each(self.passes.options.pooling))

    def features(self, fresh: bool = False) -> Features:
        """Make all shards and return their features, in memory.

        Parameters
        ----------
        fresh : bool
            Whether the job has been prepared just now: then the model is not described a second time.

        Returns
        -------
        Features
            As of `extract`.
        """
        with self._running(self.provenance["subject"] if fresh else None):
            shards = list(self.shards(range(len(self))))
            if self.passes.options.check:
                number, batch = divmod(self._to_check(range(len(self))), self._batches_each)
                shard = shards[number]
                self._check(number, batch, shard.metadata["notes"], lambda row: _row_of(shard.tensors, row), held=False)
        self.warn([shard.tensors for shard in shards])
        metadata = [shard.metadata | {"shapes": shapes_of(shard.tensors)} for shard in shards]
        index = index_of(metadata, [self.passes.subject.name] * len(metadata))
        features = Features(*features_of(index, [shard.tensors for shard in shards]))
        for part in features.values():  # one modality after the other, and then the shards can go
            part.load()
        warn_of_cuts(features)
        return features

    def write(self, folder: Path, numbers: Iterable[int], ranks: Processes | None = None, show: bool = True) -> None:
        """Write those of the shards that are not in the folder yet.

        Of a whole run one stimulus is shown again (probes/extraction/checking.py), by whoever writes its shard. Where
        there are shards already, one of their stimuli is shown again first.

        Parameters
        ----------
        folder : Path
            The feature store.
        numbers : iterable of int
            The numbers of the shards.
        ranks : Processes, optional
            The processes that work on the store. Those that hold parts of one model must all call `write` with the
            same numbers: they make each shard together, and the first writes it.
        show : bool
            Whether a progress bar is shown, on the first of them.
        """
        ranks = ranks or Processes()
        numbers = list(numbers)
        found = sorted(existing_shards(folder, self.provenance, numbers, len(self.stimuli))) if ranks.leads else []
        found = ranks.share(found, within=True)[0]
        missing = [number for number in numbers if number not in found]
        check, last = self.passes.options.check, self._to_check(range(len(self)))
        earlier = check and found and not self.checked
        if missing or earlier:
            with self._running():
                if earlier:
                    among = {*found} & {last // self._batches_each} or found
                    self._check_file(folder, self._to_check(among), held=True)
                shards = self.shards(missing, show and ranks.rank == 0)
                for number in missing:  # no variable holds a shard, so that one is in memory and not two
                    if ranks.leads:
                        write_numbered_shard(folder, number, len(self), next(shards))
                    else:
                        next(shards)
                    ranks.share(None, within=True)
                if check and last // self._batches_each in missing:
                    self._check_file(folder, last, held=False)

    def warn(self, shards: Iterable[Mapping[str, Tensor]]) -> None:
        """Warn of the sinks among the text tokens.

        Parameters
        ----------
        shards : iterable of mapping of str to torch.Tensor
            The tensors of all shards, or those of them that hold norms, in order.
        """
        places = [place for batch in self.batches for place in batch]
        paths, typical = self.passes.layers, getattr(self.passes.subject, "typical_norms", {})
        known = {name: typical[path] for name, path in paths.items() if path in typical}
        pooling = pooling_of("text", self.passes.options.pooling)
        warn_of_sinks(self.passes.subject.name, self.stimuli, join_norms(shards, places, list(paths)), known, pooling)

    def shards(self, numbers: Iterable[int], show: bool = True) -> Iterator[Shard]:
        """Make these shards, one at a time; the subject must be `prepared`.

        Parameters
        ----------
        numbers : iterable of int
            The numbers of the shards.
        show : bool
            Whether a progress bar is shown.

        Yields
        ------
        Shard
            The shards in the order of `numbers`.
        """
        shares = [self._batches(number) for number in numbers]
        memory = BatchSize(max(len(batch) for batches in shares for batch in batches))
        total = sum(len(batches) for batches in shares)
        with tqdm(total=total, desc=f"extract {self.passes.subject.name}", leave=False, disable=not show) as bar:
            for batches in shares:
                pieces, halved = [], {}
                for number, batch in enumerate(batches):
                    tensors, sizes = memory.run(self.passes, [self.stimuli[place] for place in batch])
                    pieces += tensors
                    if len(sizes) > 1:
                        halved[str(number)] = sizes
                    bar.update()
                pieces = [concatenate_batches(pieces)]
                yield self._shard(pieces.pop(), [place for batch in batches for place in batch], halved)

    @contextmanager
    def _running(self, described: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Prepare the subject for passes, and put aside what they change in its models."""
        subject = self.passes.subject
        modules = modules_of(subject).values()
        with within_passes(*modules, subject=subject, described=described), prepared(subject, self.device):
            yield

    @property
    def _batches_each(self) -> int:
        return batches_each(self.passes.options.pooling)

    def _batches(self, number: int) -> tuple[tuple[int, ...], ...]:
        return self.batches[number * self._batches_each : (number + 1) * self._batches_each]

    def _to_check(self, shards: Iterable[int]) -> int:
        numbers = range(len(self.batches))
        each = self._batches_each
        return batch_to_check(
            self.batches, self.lengths, [n for shard in shards for n in numbers[shard * each : (shard + 1) * each]]
        )

    def _check_file(self, folder: Path, batch: int, held: bool) -> None:
        number, place = divmod(batch, self._batches_each)
        path = shard_path(folder, number)
        metadata = read_metadata(path)
        seal = metadata["seal"] if held else None  # the bytes of this run's shards are not read again
        with open_shard(path) as file:

            def read(row: int) -> dict[str, Tensor]:
                names = metadata["shapes"]
                return {n: read_tensor(file, path, n, slice(0, 2), seal)[:, row : row + 1] for n in names}

            self._check(number, place, metadata["notes"], read, held)

    def _check(
        self, number: int, place: int, notes: dict[str, Any], read: Callable[[int], dict[str, Tensor]], held: bool
    ) -> None:
        """Show the first stimulus of a batch again, with the tensors that `read` returns for its row of the shard."""
        batches = self._batches(number)
        sizes = notes.get("halved", {}).get(str(place), [len(batches[place])])
        kept = read(sum(map(len, batches[:place])))
        check_stimulus(self.passes, KeptStimulus(self.stimuli, batches[place][: sizes[0]], 0, kept, held))
        self.checked.add(number * self._batches_each + place)

    def _shard(self, tensors: dict[str, Tensor], places: list[int], halved: dict[str, list[int]]) -> Shard:
        passes, options = self.passes, self.passes.options
        parts = {}
        for modality in passes.subject.modalities:
            depths = passes.depths[modality]
            label = pooling_of(modality, options.pooling)
            label += (
                " + special" * options.special
                + " + sinks" * (options.sinks and modality == "text")
                + " + chosen" * (modality in (options.tokens or {}))
                + " + generated" * (options.generate is not None)
            )
            parts[modality] = {
                "layers": list(depths),
                "depths": list(depths.values()),
                "subject": passes.subject.name,
                "task": options.task,
                "pass_": "joint" if len(passes.groups) < len(passes.subject.modalities) else "separate",
                "pooling": label,
                "timesteps": list(options.timesteps),
                "cleaned": "clamped" if options.cleaned else None,
            }
        ids, digests, groups = self.stimuli.ids, self.stimuli.digests, self.stimuli.groups
        cut = {name: passes.cut[name] for place in places if (name := ids[place]) in passes.cut}
        expert = opened_from(passes.subject, self.provenance.get("subject", {}).get("models"))
        found = (("halved", halved), ("truncated", cut), ("expert", expert))
        notes: dict[str, Any] = {name: note for name, note in found if note}
        metadata = {
            "format": FORMAT,
            "made": self.provenance,
            "parts": parts,
            "places": places,
            "ids": [ids[place] for place in places],
            "digests": [digests[place] for place in places],
            **({"groups": [groups[place] for place in places]} if groups else {}),
            "notes": notes | ({} if options.check else {"check": False}),
        }
        return Shard(tensors, metadata)


def _row_of(tensors: Mapping[str, Any], row: int) -> dict[str, Tensor]:
    return {name: tensor[:, row : row + 1] for name, tensor in tensors.items()}


def warn_of_cuts(features: Features) -> None:
    """Warn of captions that are longer than what the subject read of them, once for all of them."""
    cut = features.provenance.get("truncated", {})
    if cut:
        part = next(iter(features.values()))
        limits = sorted({limit for limit in cut.values() if limit is not None})
        at = f" at {limits[0]} tokens" if limits else ""
        warnings.warn(
            f"{len(cut)} of {len(part.samples)} captions are longer than what {part.subject} reads, and were cut{at}, "
            f"such as that of {next(iter(cut))!r}: features.provenance['truncated'] names them",
            stacklevel=4,
        )


def prepare_job(subject: Subject, stimuli: Stimuli, options: ExtractionOptions | None = None) -> ExtractionJob:
    """Check all options of an extraction and cut it into shards.

    Parameters
    ----------
    subject : Subject
        What is probed.
    stimuli : Stimuli
        What it is shown.
    options : ExtractionOptions, optional
        The options of `extract`; the defaults if left out.

    Returns
    -------
    ExtractionJob
        The extraction, of which nothing has run yet.

    Raises
    ------
    ValueError, TypeError
        An option does not fit the subject, as `fitted` says; or it is no subject, or no stimuli.
    """
    check_shown(subject, stimuli)
    options = fitted(options or ExtractionOptions(), subject)
    words = "text" in subject.modalities
    lengths = [len(text) for text in stimuli.texts] if words else [0] * len(stimuli)
    order = sorted(range(len(stimuli)), key=lambda place: (lengths[place], place))
    size = options.batch_size
    batches = tuple(tuple(order[start : start + size]) for start in range(0, len(order), size))
    settings = recorded(options) | {
        "order": "by length of text" if words else "as given",
        "batches_per_shard": batches_each(options.pooling),
    }
    if options.generate is not None:
        settings["generation_config"] = _generation_digest(subject, options.generate)
    longest = [stimuli[place] for place in order[-LOOKED_AT:]]
    denoised = denoised_modalities(subject, longest, str(options.task), options.timesteps)
    if options.timesteps and denoised != ("image",):
        settings["denoised"] = list(denoised)
    device = chosen_device(options.device)
    kind = device.split(":")[0]
    if torch.is_autocast_enabled(kind) and options.precision is None:
        settings["autocast"] = str(torch.get_autocast_dtype(kind))  # the caller's own, around extract
    passes, made = PassRunner(subject, options, denoised), made_of(subject, stimuli, settings)
    return ExtractionJob(passes, stimuli, batches, tuple(lengths), device, made)


def _generation_digest(subject: Subject, generate: int | Mapping[str, Any]) -> str | None:
    """Hash those of a model's own settings of generation that nothing given replaces."""
    config: Any = getattr(subject.model, "generation_config", None)
    given = generation_settings(subject.model, generate)
    return config_digest({k: v for k, v in config.to_dict().items() if k not in given}) if config else None
