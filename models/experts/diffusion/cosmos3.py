"""Open Cosmos3-Omni as a subject: an understanding and a generation stream in every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ....probes.stimuli.stimulus_set import Stimulus
from ....probes.subjects.subject import ForwardPass
from .denoisers import learn_convention
from .pipeline_expert import PipelineExpert, blank
from .prompt_words import PROBES, own_tokens


@dataclass
class Cosmos3Expert(PipelineExpert):
    """Cosmos3-Omni (diffusers' Cosmos3OmniTransformer).

    Its blocks return two streams without a batch axis, (token, dim): `und_seq`, the prompt, causal, and `gen_seq`, the
    noisy latents, which read the prompt and are not read by it: a mixture of transformers.

    The generation task shows the prompt in the pipeline's template and one frame of latents at a timestep. Image alone
    is the noisy image with the empty prompt, text alone the prompt with pure noise, which its states do not depend on.
    Text tokens are the prompt's, with the full stop that the pipeline puts behind it, without the template.

    `reader()` is the same model on the understanding task: the caption as a chat message. What diffusers has of the
    model takes no image for understanding (it has no vision tower; an image given to it is clean latents in the
    generation stream), so its modality is text alone.

    Attributes
    ----------
    max_batch : int
        Stimuli in one pass: 1, since a sequence is one sample and attention knows no borders between samples.

    Notes
    -----
    The other attributes are those of `PipelineExpert`.
    """

    max_batch: int = 1

    @property
    def modalities(self) -> tuple[str, ...]:
        """Image and text for generation, text alone for understanding."""
        return ("image", "text") if "generation" in self.tasks else ("text",)

    def reader(self) -> Cosmos3Expert:
        """Return the same model on the understanding task, text alone.

        Returns
        -------
        Cosmos3Expert
        """
        return replace(self, tasks=("understanding",), timed_tasks=(), others=None)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows these modalities of one stimulus, for a task.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            One.
        modalities : tuple of str
            "image", "text" or both.
        task : str
            "understanding" or "generation".
        timestep : float or None
            0 is the clean image, 1 is noise; None is noise.

        Returns
        -------
        ForwardPass

        Raises
        ------
        ValueError
            If there are several stimuli, or an image is to be understood.
        """
        if len(stimuli) != self.max_batch:
            raise ValueError(
                f"{self.name} takes one sample a pass, its sequences are not batched: got {len(stimuli)}, "
                "use batch_size=1"
            )
        if task == "understanding" and "image" in modalities:
            raise ValueError(f"{self.name} takes no image for understanding: show it text alone, with reader()")
        chat = {} if task == "generation" else {"use_system_prompt": False, "add_resolution_template": False}
        call = self.call(stimuli, modalities, timestep, **chat)
        given = call.arguments
        tokens = {"image": torch.arange(given["sequence_length"] - given["und_len"])[None]}
        if "text" in modalities:
            if self.others is None:
                others = [self.call([blank(text)], ("text",), None, **chat).arguments for text in PROBES]
                self.others = [arguments["input_ids"].tolist() for arguments in others]
            tokens["text"] = torch.tensor(own_tokens(given["input_ids"].tolist(), self.others))[None]
        streams = {"image": "gen_seq", "text": "und_seq"}
        return ForwardPass(
            lambda: self.model(**given),
            {m: tokens[m] for m in modalities},
            {m: streams[m] for m in modalities},
            grids={"image": [given["vision_token_shapes"][0]]},
        )


def cosmos3_expert(pipe: Any, name: str, side: int | None = None) -> Cosmos3Expert:
    """Wrap an open Cosmos3OmniPipeline as a subject.

    Parameters
    ----------
    pipe : diffusers.Cosmos3OmniPipeline
        On whatever devices and in whatever precision it is.
    name : str
        What the expert is called.
    side : int, optional
        Pixels a side of the images; the pipeline's 720 without.

    Returns
    -------
    Cosmos3Expert
    """
    model = pipe.transformer
    blocks = tuple(f"layers.{number}" for number in range(len(model.layers)))
    expert = Cosmos3Expert(name, pipe, model, blocks, "streams", side or 720)
    learn_convention(expert)
    return expert
