"""Open any diffusers text-to-image pipeline as a subject, from a folder or Hub id."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers.utils import cached_file

from ....probes.private_names import quiet_lookup
from ..weight_files import loading
from ..weight_files.loading_messages import quiet_loading
from .cosmos3 import cosmos3_expert
from .denoisers import denoiser_expert
from .pipeline_expert import PipelineExpert


def open_pipeline(
    name: str | Path,
    random_weights: bool = False,
    seed: int = 0,
    side: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> PipelineExpert:
    """Open a diffusers text-to-image or text-to-video pipeline; a video model is shown one still frame.

    Parameters
    ----------
    name : str or Path
        A local folder as saved by `save_pretrained`, or a Hub id, with a model_index.json. Weights are read from
        safetensors files. Safety checkers, which look at finished images, are left out.
    random_weights : bool
        Open a twin whose denoiser is drawn at random. Text encoders and autoencoder keep their weights: they decide
        what the denoiser is shown.
    seed : int
        Of the random denoiser.
    side : int, optional
        Pixels a side of the images; the pipeline's own size without.
    dtype : torch.dtype
        The format of the weights of all parts.

    Returns
    -------
    PipelineExpert

    Raises
    ------
    ValueError
        If the pipeline cannot be read, is of another kind, or needs code that comes with the weights.

    See Also
    --------
    pipeline_expert : Wraps a pipeline that you opened yourself in another precision, offloaded or on several devices.

    Examples
    --------
    >>> expert = open_pipeline("stabilityai/stable-diffusion-3.5-medium")
    >>> features = extract(expert, stimuli, timesteps=(0.2, 0.5, 0.8))
    """
    import diffusers  # here, because it takes longer than torch and `open_expert` imports this module for any expert

    with quiet_loading():
        pipe = _read_pipeline(diffusers, str(name), random_weights, seed, dtype)
    label = Path(str(name)).name + (" (random weights)" if random_weights else "")
    return pipeline_expert(pipe, label, side)


def _read_pipeline(diffusers: Any, source: str, random_weights: bool, seed: int, dtype: torch.dtype) -> Any:
    index = loading.load("model_index.json", diffusers.DiffusionPipeline.load_config, source)
    kind, part = getattr(diffusers, str(index.get("_class_name")), None), denoiser_name(index)
    auto = getattr(diffusers, str(index[part][1]), None)
    if kind is None or auto is None or index[part][0] != "diffusers":
        raise ValueError(
            f"the pipeline {source!r} is a {index.get('_class_name')} with a {index[part][1]}, which diffusers "
            f"{diffusers.__version__} does not have: code that comes with weights is not run. Install the diffusers "
            "that has it, or write an adapter (docs/adapters.md)"
        )
    if random_weights:
        from transformers import set_seed

        set_seed(seed)
        config = loading.load("config", auto.load_config, source, subfolder=part)
        denoiser = auto.from_config(config).to(dtype).eval()
    else:
        denoiser = loading.weights(auto, source, subfolder=part, torch_dtype=dtype).eval()
    unchecked = {"safety_checker": None, "requires_safety_checker": False, "enable_safety_checker": False}
    offered = inspect.signature(kind.__init__).parameters
    options = {name: value for name, value in unchecked.items() if name in offered}
    options |= {part: denoiser, "torch_dtype": dtype} if dtype != torch.float32 else {part: denoiser}
    return loading.load("pipeline", kind.from_pretrained, source, use_safetensors=True, **options)


def is_pipeline(source: str) -> bool:
    """Return whether a local folder or a Hub id, as far as it can be reached, holds a diffusers pipeline.

    Parameters
    ----------
    source : str
        A local folder or a Hub id.

    Returns
    -------
    bool
    """
    if Path(source).is_dir():
        return (Path(source) / "model_index.json").is_file()
    return cached_file(source, "model_index.json", **quiet_lookup()) is not None


def pipeline_expert(pipe: Any, name: str, side: int | None = None) -> PipelineExpert:
    """Wrap an open pipeline as a subject.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        On whatever devices and in whatever precision it is.
    name : str
        What the expert is called.
    side : int, optional
        Pixels a side of the images; the pipeline's own size without.

    Returns
    -------
    PipelineExpert

    Raises
    ------
    ValueError
        If it has no denoiser, a schedule that is neither flow matching nor variance preserving, or blocks over one
        sequence whose order is not known.
    """
    model = getattr(pipe, denoiser_name(pipe.config))
    if type(model).__name__ == "Cosmos3OmniTransformer":
        return cosmos3_expert(pipe, name, side)
    return denoiser_expert(name, pipe, model, side)


def denoiser_name(parts: Any) -> str:
    """Return under which name a pipeline holds its denoiser.

    Parameters
    ----------
    parts : mapping
        The pipeline's config, or its model_index.json.

    Returns
    -------
    str
        "transformer" or "unet".

    Raises
    ------
    ValueError
        If it has neither.
    """
    for part in ("transformer", "unet"):
        if (parts.get(part) or (None,))[0] is not None:
            return part
    raise ValueError(
        f"{parts.get('_class_name', 'the pipeline')} has neither a transformer nor a unet: wrap it in your own Subject "
        "(probes/subjects/subject.py)"
    )
