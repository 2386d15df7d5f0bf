"""Build one trunk for both tasks: a vision-language model that draws images as well, on one objective.

A sequence of understanding is image tokens (vision tower and projector), then text; one of generation is a caption,
then the patches of a noisy image. Language modelling on text and flow matching on patches are added up, as in
Transfusion (arXiv 2408.11039). `models/unified/token_model.py` draws with discrete tokens instead.

Deviations from the papers. UniFork and Uni-X, like Emu3 and Chameleon, are trained on next-token prediction alone; here
their layouts are on Transfusion's objective as well. Transfusion reads an image through the same patches that it
denoises; here, as in UniFork, through a vision tower. Patches enter and leave by one linear map (Transfusion's simpler
variant, no U-Net), the model predicts the clean image and is trained on the velocity that follows
(models/experts/shipped_architectures.py).
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from ...probes.arguments import check_names, checked, file_name
from ...probes.file_formats import read_json, with_format
from ...probes.files import write_atomically, write_json
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.private_names import set_attention
from ...probes.stimuli.images import to_pixels
from ...probes.tensor_files import hash_file, read_tensors, sealed
from ..experts.pixel_dit import DitExpert
from ..experts.token_rows import pad
from ..experts.vision_language import LlavaExpert
from ..experts.weight_files import loading
from ..scenes.dialogues import IMAGE, answer_loss, check_questions, likeliest_answers, split_labels, tokenize_rows
from ..towers.attention_masks import SequencePlaces
from .trunk import Trunk, TrunkTokens, check_parts, sequence_places

DESCRIBED = ("plan.json", "unified.json", "config.json")  # written beside the weights, which hold their hashes


class CaptionTokens(NamedTuple):
    """Captions as the trunk reads them.

    Attributes
    ----------
    ids : Tensor
        (batch, token).
    real : Tensor
        (batch, token), False at padding.
    """

    ids: Tensor
    real: Tensor


class OneTrunk(nn.Module):
    """The base class of both objectives: reading images and texts, and what is trained, saved and opened.

    Parameters
    ----------
    plan : BridgePlan
        A plan of one trunk; its pairs (i, i) are the shared blocks (models/unified/trunk.py).
    config : LlavaConfig
        A LLaVA over a Llama: vision tower, projector and trunk.
    tokenizer : Any
        It has tokens for begin, end and padding, and `<image>` where an image stands.
    causal_images : bool
        Whether the tokens of a clean image see only those before them, as in LLaVA, UniFork and Uni-X. By default they
        see each other, as in Transfusion. Patches that are denoised always see each other, and no other token sees
        them.

    Attributes
    ----------
    objective : str
        The name of the objective, which is saved with the model.
    size : tuple of int
        Channels, rows and columns of its images.
    taken : list of str
        The parameters that `from_experts` copied.

    Raises
    ------
    ValueError
        The layout or depth is another one, the text model is no Llama, or the tokenizer lacks a token.
    """

    objective: str
    OPTIONS: tuple[str, ...] = ()  # arguments of the constructor that `from_experts` passes on

    def __init__(self, plan: BridgePlan, config: LlavaConfig, tokenizer: Any, causal_images: bool = False) -> None:
        super().__init__()
        check_parts(plan, config, tokenizer)
        causal_images = checked("causal_images", causal_images, bool)
        config = copy.deepcopy(config)
        set_attention(config.text_config, "sdpa")  # masks here are boolean
        self.plan, self.tokenizer, self.causal_images = plan, tokenizer, causal_images
        self.name = f"unified {plan.layout}"
        trunk = Trunk(config.text_config, plan)
        self.reader = LlavaForConditionalGeneration(config)
        self.reader.model.language_model = trunk
        self.reader.tie_weights()
        self.taken: list[str] = []

    @classmethod
    def from_experts(cls, plan: BridgePlan, understanding: LlavaExpert, generation: DitExpert, **options: Any) -> Self:
        """Build a unified model that starts with all that fits of two experts.

        Vision tower, projector, embeddings, blocks and norms are the understanding expert's; the twins of blocks that
        are not shared are copies of the same blocks. Of the generation expert, what plays the same role (patches in,
        patches out, time) is taken where all of its shapes are the same: of scenes-dit, which is 96 wide beside
        128, nothing. The rest is random. Images are read causally, as the expert learnt to: before training, shared
        and Y answer what the expert answers.

        Parameters
        ----------
        plan : BridgePlan
            A plan of one trunk.
        understanding : LlavaExpert
            The understanding expert.
        generation : DitExpert
            The generation expert.
        **options : Any
            Other arguments of the constructor.

        Returns
        -------
        Self
            The model, in evaluation mode.

        Raises
        ------
        TypeError
            The experts are of other classes.
        ValueError
            As the constructor, or an option is unknown.
        """
        if not isinstance(understanding, LlavaExpert) or not isinstance(generation, DitExpert):
            raise TypeError(
                f"a {cls.__name__} is made from two experts: expected a LlavaExpert and a DitExpert, in this order, "
                f"got {type(understanding).__name__} and {type(generation).__name__}"
            )
        check_names("option", options, cls.OPTIONS)
        model = cls(plan, understanding.model.config, understanding.tokenizer, causal_images=True, **options)
        state = understanding.model.state_dict()
        model.reader.load_state_dict(state, strict=False)
        twins = [f"model.language_model.{name}" for name in model.trunk.twin()]
        known = [f"reader.{n}" for n, _ in model.reader.named_parameters() if n in state or n in twins]
        model.taken = known + model._copy_matching(generation)
        return model.eval()

    def _copy_matching(self, generation: DitExpert) -> list[str]:
        """Copy what draws from the generation expert where it fits; return the names of the parameters."""
        return []

    @property
    def trunk(self) -> Trunk:
        """The stack of blocks."""
        return self.reader.model.language_model

    @property
    def size(self) -> tuple[int, int, int]:
        """Channel, row, column of the images that are drawn."""
        side = self.reader.config.vision_config.image_size
        return 3, side, side

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.reader.device

    def condition(self, captions: Sequence[str]) -> CaptionTokens:
        """Tokenize captions as they stand before an image: a begin token and the words; "" is the null caption."""
        words = self.tokenizer(list(captions), add_special_tokens=False).input_ids
        ids, mask = pad(
            [[self.tokenizer.bos_token_id, *row] for row in words], self.tokenizer.pad_token_id, self.device
        )
        return CaptionTokens(ids, mask.bool())

    def caption_then_image(self, text: CaptionTokens, states: Tensor, noise: bool) -> TrunkTokens:
        """Lay captions and the tokens of an image into one sequence.

        Parameters
        ----------
        text : CaptionTokens
            The captions.
        states : Tensor
            The image tokens, (batch, token, dim).
        noise : bool
            Whether they are noisy: then they see each other, else they are causal.

        Returns
        -------
        TrunkTokens
            What the trunk takes: states (batch, token, dim), which of them are the image's, and who sees whom.
        """
        image = torch.cat([torch.zeros_like(text.real), text.real.new_ones(states.shape[:2])], 1)
        real = torch.cat([text.real, text.real.new_ones(states.shape[:2])], 1)
        words = self.reader.get_input_embeddings()(text.ids)
        places = SequencePlaces(sequence_places(image, apart=not noise), image & noise, real)
        return TrunkTokens(torch.cat([words, states.to(words.dtype)], 1), image, places)

    def read(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        """Return the logits of understanding, as a LLaVA does.

        Parameters
        ----------
        input_ids, attention_mask : Tensor
            (batch, token), with `<image>` tokens wherever an image stands.
        pixel_values : Tensor, optional
            (image, channel, row, column) in -1..1, in the order of the rows that have one.

        Returns
        -------
        Tensor
            (batch, token, vocabulary).
        """
        image = input_ids == self.reader.config.image_token_id
        states = self.reader.get_input_embeddings()(input_ids)
        if pixel_values is not None and len(pixel_values):
            features = torch.cat(tuple(self.reader.model.get_image_features(pixel_values).pooler_output))
            states = states.masked_scatter(image[..., None], features.to(states.dtype))
        places = SequencePlaces(
            sequence_places(image, apart=self.causal_images), torch.zeros_like(image), attention_mask.bool()
        )
        return self.logits(self.trunk(TrunkTokens(states, image, places), generation=False))

    def logits(self, states: Tensor) -> Tensor:
        """Return the scores of the next token, (batch, token, vocabulary), from states (batch, token, dim)."""
        return self.reader.lm_head(states)

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """Answer a question about each image in one word: the likeliest next token.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            The images.
        questions : sequence of str
            A question about each image.

        Returns
        -------
        list of str
            The answers.

        Raises
        ------
        ValueError, TypeError
            They are no images and texts, or not equally many.
        """
        check_questions(images, questions)
        pixels = to_pixels(images, self.size[1]).to(self.device)

        def read(ids: Tensor, mask: Tensor) -> Tensor:
            return self.read(ids.to(self.device), mask.to(self.device), pixels)[..., : len(self.tokenizer)]

        return likeliest_answers(self.tokenizer, questions, read)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the sum of `losses` of a batch, a scalar: one objective for both tasks."""
        return torch.stack(list(self.losses(batch).values())).sum()

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, term by term.

        Parameters
        ----------
        batch : dict
            image, caption, time and noise, as models/training/scene_batches.py and models/training/batches.py make
            them, and dialogues under "questions" where there are some.

        Returns
        -------
        dict of str to Tensor
            Scalars. "words" is the cross-entropy (nats a token) of captions given their clean images, where a caption
            is not left out. "answers" is that of the dialogues' answers, where there are some. "drawing" is the loss
            of the images given their captions.
        """
        image = batch["image"].to(self.device)
        shown = [number for number, caption in enumerate(batch["caption"]) if caption]
        terms = {}
        if shown:
            # Without words before the caption, the image's last token would have to predict the caption's first.
            prompt = IMAGE * self.reader.config.image_seq_length + "describe :"
            rows = tokenize_rows(self.tokenizer, [[(prompt, batch["caption"][number])] for number in shown])
            terms["words"] = self._answered({**rows, "pixel_values": image[shown]})
        if questions := batch.get("questions"):
            terms["answers"] = self._answered(questions)
        return {**terms, "drawing": self.drawing_loss(batch)}

    def _answered(self, rows: dict[str, Tensor]) -> Tensor:
        """Return the loss of the answers in rows of dialogues."""
        inputs, labels = split_labels(rows, self.device)
        return answer_loss(self.read(**inputs), labels)

    def drawing_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted loss of drawing the batch's images from their captions, a scalar."""
        raise NotImplementedError

    def trained(self) -> nn.Module:
        """Return what is trained: the whole model."""
        return self

    def settings(self) -> dict[str, Any]:
        """Return what the constructor was given beside plan, config and tokenizer, as plain JSON."""
        return {"causal_images": self.causal_images}

    def save(self, folder: str | Path) -> None:
        """Write plan, config, tokenizer and weights into a folder: all that `load` needs."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.plan.save(folder / "plan.json")
        self.reader.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        about = with_format("unified model", dict(self.settings(), objective=self.objective))
        write_json(folder / "unified.json", about)
        metadata = sealed(state := _once(self.state_dict()), {name: hash_file(folder / name) for name in DESCRIBED})
        write_atomically(folder / "unified.safetensors", lambda path: save_file(state, path, metadata=metadata))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open what `save` wrote.

        Parameters
        ----------
        folder : str or Path
            The folder that `save` wrote.

        Raises
        ------
        FileNotFoundError
            A file is missing.
        ValueError
            A file is of another objective, is damaged or was changed, or does not hold the weights of the plan.
        """
        folder = file_name("folder", folder)
        plan = BridgePlan.load(folder / "plan.json")
        for name in ("unified.json", "unified.safetensors", "config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no {name} in {os.fspath(folder)!r}: expected what {cls.__name__}.save writes")
        settings = read_json("unified model", folder / "unified.json")
        if (found := settings.pop("objective")) != cls.objective:
            raise ValueError(
                f"{folder / 'unified.json'} is of the objective {found!r}, {cls.__name__} draws by {cls.objective!r}: "
                "open it with the class that saved it"
            )
        path = folder / "unified.safetensors"
        _check_files(path)
        model = cls(plan, LlavaConfig.from_pretrained(folder), loading.tokenizer(str(folder)), **settings)
        try:
            load_model(model, path)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not hold the weights of its plan, {plan.layout!r} with {len(plan.pairs)} shared blocks: "
                f"put back the plan it was trained with, or train again ({str(error).splitlines()[0]})"
            ) from None
        return model.eval()


def _check_files(path: Path) -> None:
    """Raise ValueError where weights are damaged, or a file beside them is not the one that was saved with them."""
    try:
        files = read_tensors(path)[1]
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged: copy it again, or train again ({str(error).splitlines()[0]})") from None
    if files is None:
        warnings.warn(f"{path} was written before it held hashes: whether it is whole cannot be checked", stacklevel=3)
        return
    if other := [name for name, written in files.items() if hash_file(path.parent / name) != written]:
        raise ValueError(
            f"{path.parent / other[0]} is not the file that was saved with {path.name}, which does not hold the "
            f"weights of its plan and settings then: put back that {other[0]}, or train again"
        )


def _once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor under the first of its names: tied weights are written once."""
    own: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        own.setdefault((tensor.data_ptr(), tensor.shape), (name, tensor.detach().cpu().contiguous()))
    return dict(own.values())
