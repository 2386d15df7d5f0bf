"""Vision-language models: what is laid around images and texts, and which models have no place for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t

from bridgework.models.experts.opening import open_expert
from bridgework.models.experts.vision_language import LlavaExpert, VlmExpert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import EMBEDDINGS, capture
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.tests.models import tiny_folders
from bridgework.tests.models.tiny_folders import IMAGE, VISION, clip_vision, picture, squares, text, tokenizer, write

BOS, EOS, START, END = 1, 2, IMAGE + 2, IMAGE + 3


def opened(architecture: str, folder: Any) -> Any:
    write(architecture, folder)
    return open_expert(folder)


def save(folder: Any, model: Any, *parts: Any) -> Any:
    for part in (model, *parts):
        part.save_pretrained(folder)
    return open_expert(folder)


@pytest.fixture
def stimuli() -> Stimuli:
    rows = [(32, 32, "a red circle"), (32, 48, "a ring")]
    return Stimuli([Stimulus(picture(i, w, h), caption, str(i)) for i, (w, h, caption) in enumerate(rows)])


def ids_of(expert: Any, stimuli: Stimuli, *modalities: str) -> tuple[list[list[int]], Any]:
    """What the model is given, and the pass."""
    calls = []
    handle = expert.model.register_forward_pre_hook(
        lambda module, args, given: calls.append(given["input_ids"]), with_kwargs=True
    )
    shown = expert.show(list(stimuli), modalities, "understanding", None)
    with torch.no_grad():
        shown.run()
    handle.remove()
    return calls[-1].tolist(), shown


# The tokens around an image, as config or tokenizer of each family name them.
FRAMES = {
    "LlavaForConditionalGeneration": ([], 16, []),
    "Gemma3ForConditionalGeneration": ([START], 4, [END]),
    "Qwen2_5_VLForConditionalGeneration": ([START], 4, [END]),
    "InternVLForConditionalGeneration": ([START], 4, [END]),
    "SmolVLMForConditionalGeneration": ([], 4, []),
}


@pytest.mark.parametrize("architecture", FRAMES)
def test_layout(architecture, tmp_path, stimuli):
    """Begin, the image in its frame, the caption; the same without the other modality in a separate pass."""
    start, count, end = FRAMES[architecture]
    expert = opened(architecture, tmp_path)
    assert isinstance(expert, VlmExpert)
    one, words = stimuli[:1], expert.tokenizer("a red circle", add_special_tokens=False).input_ids
    image = [*start, *[IMAGE] * count, *end]
    assert ids_of(expert, one, "image")[0] == [[BOS, *image]]
    assert ids_of(expert, one, "text")[0] == [[BOS, *words]]
    ids, shown = ids_of(expert, one, "image", "text")
    assert ids == [[BOS, *image, *words]]
    tokens = {name: mask[0].tolist() for name, mask in shown.tokens.items()}
    special = {name: mask[0].tolist() for name, mask in shown.special.items()}
    rest = [False] * len(words)
    assert tokens["image"] == [False, *[i == IMAGE for i in image], *rest]
    assert tokens["text"] == [False] * (1 + len(image)) + [True] * len(words)
    assert special["image"] == [False, *[i != IMAGE for i in image], *rest]
    assert special["text"] == [True, *[False] * len(image), *rest]


def test_a_tokenizer_without_a_token_to_begin_with(tmp_path, stimuli):
    """Qwen's: its end of text takes that place, so that no word becomes the sink."""
    ids, shown = ids_of(opened("Qwen3_5ForConditionalGeneration", tmp_path), stimuli, "text")
    assert [row[0] for row in ids] == [EOS, EOS]
    assert not shown.tokens["text"][:, 0].any()


@torch.no_grad()
def test_image_tokens_are_what_the_vision_path_gives(tmp_path, stimuli):
    expert = opened("Qwen3VLForConditionalGeneration", tmp_path)
    shown = expert.show(list(stimuli), ("image",), "understanding", None)
    with capture(expert.model, [EMBEDDINGS, expert.blocks[0]]) as taps:
        shown.run()
    native = expert.model.get_image_features(**expert.pixels([s.image for s in stimuli])).pooler_output
    for state, mask, image in zip(taps[EMBEDDINGS], shown.tokens["image"], native, strict=True):
        assert torch.equal(state[mask], image)


def test_a_pass_leaves_nothing_for_the_next(tmp_path, stimuli):
    """Qwen's models remember positions from one call to the next."""
    expert = opened("Qwen2_5_VLForConditionalGeneration", tmp_path)
    alone = ids_of(expert, stimuli, "text")[1].run().logits
    ids_of(expert, stimuli, "image", "text")
    assert torch.equal(ids_of(expert, stimuli, "text")[1].run().logits, alone)


@pytest.mark.parametrize("prefix", [False, True], ids=["Gemma3", "PaliGemma"])
def test_who_sees_whom_is_the_models_own(prefix, tmp_path, stimuli):
    """Gemma's image tokens see each other, PaliGemma's whole prompt does: the first token answers to the last."""
    expert = opened(f"{'PaliGemma' if prefix else 'Gemma3'}ForConditionalGeneration", tmp_path)
    words = expert.tokenizer("a red circle", add_special_tokens=False).input_ids
    ids, shown = ids_of(expert, stimuli[:1], "image", "text")
    first = int(shown.tokens["image"][0].nonzero()[0])

    def state(position: int) -> torch.Tensor:
        """The last block's state of the first image token, with another token's entrance changed."""
        handle = expert.model.get_submodule(expert.blocks[0]).register_forward_pre_hook(
            lambda module, args: args[0].index_add(1, torch.tensor([position]), torch.ones_like(args[0][:, :1]))
        )
        with torch.no_grad(), capture(expert.model, expert.blocks[-1:]) as taps:
            shown.run()
        handle.remove()
        return taps[expert.blocks[-1]][0, first]

    image_last = int(shown.tokens["image"][0].nonzero()[-1])
    plain = state(len(ids[0]) - 1)
    assert not torch.allclose(plain, state(image_last), atol=1e-4)
    with torch.no_grad(), capture(expert.model, expert.blocks[-1:]) as taps:
        shown.run()
    untouched = taps[expert.blocks[-1]][0, first]
    assert torch.allclose(plain, untouched, atol=1e-5) == (not prefix)
    assert len(words) == 3


def test_our_own_is_a_llava(tmp_path):
    assert type(opened("LlavaForConditionalGeneration", tmp_path)) is LlavaExpert
    assert type(open_expert("scenes-vlm")) is LlavaExpert


# ---- further families, by the same rules


def llava_next() -> Any:
    config = t.LlavaNextConfig(
        vision_config=clip_vision(), text_config=text("llama"), image_token_index=IMAGE,
        image_grid_pinpoints=[[32, 32], [32, 64]], vision_feature_layer=-2,
    )  # fmt: skip
    return t.LlavaNextForConditionalGeneration(config)


def mistral3() -> Any:
    eyes = {**VISION, "model_type": "pixtral", "head_dim": 8, "hidden_size": 32}
    config = t.Mistral3Config(
        vision_config=eyes, text_config=text("mistral"), image_token_index=IMAGE, spatial_merge_size=2
    )
    return t.Mistral3ForConditionalGeneration(config)


OTHERS = {
    "LlavaNext": (llava_next, lambda: t.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=32, image_grid_pinpoints=[[32, 32], [32, 64]])),
    "Mistral3": (mistral3, lambda: t.PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=16)),
}  # fmt: skip


@pytest.mark.parametrize("family", OTHERS)
def test_families_that_nobody_named(family, tmp_path, stimuli):
    build, processor = OTHERS[family]
    torch.manual_seed(0)
    expert = save(tmp_path, build(), tokenizer(), processor())
    joint = extract(expert, stimuli, joint=True)
    for modality in ("image", "text"):
        assert joint[modality].values.shape == (5, 2, 32)
        assert torch.isfinite(joint[modality].values).all()


@pytest.mark.parametrize("kind", ["Florence2", "Mllama", "Blip", "Kosmos2"])
def test_models_without_image_tokens_are_refused(kind, tmp_path):
    config = getattr(t, f"{kind}Config")()
    config.architectures = [f"{kind}ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no image tokens among the tokens of a language model: .* own Subject"):
        open_expert(tmp_path, random_weights=True)


def test_an_image_processor_of_another_family(tmp_path):
    parts = tiny_folders.FOLDERS["LlavaOnevisionForConditionalGeneration"][:2]
    with pytest.raises(ValueError, match=r"makes no 'image_sizes', which its model asks for"):
        save(tmp_path, *(part() for part in parts), squares("ViTImageProcessorPil")())
