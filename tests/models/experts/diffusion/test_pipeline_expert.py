"""Diffusion pipelines as subjects, family by family: what the denoiser is shown is what its own pipeline would show."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from diffusers import DDPMScheduler

from bridgework.models.experts.diffusion.cosmos3 import Cosmos3Expert
from bridgework.models.experts.diffusion.latents import clean_latents
from bridgework.models.experts.diffusion.opening_pipelines import pipeline_expert
from bridgework.models.experts.diffusion.pipeline_runs import Noise
from bridgework.models.experts.diffusion.recorded_call import frozen_scheduler, record_call
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.controls import noise_for
from bridgework.probes.stimuli.images import to_pixels
from bridgework.tests.models.tiny_pipelines import TINY

BOTH = ("SD 3.5", "Flux", "Flux 2", "Qwen-Image", "Lumina 2", "CogVideoX", "Chroma", "CogView4", "AuraFlow")
IMAGE = tuple(family for family in TINY if family not in (*BOTH, "Cosmos3"))
TEXTS = ("a dot", "two red rings", "a green square above a blue cross")
STIMULI = [s._replace(text=text) for s, text in zip(scene_stimuli("train", 3), TEXTS, strict=True)]


def means(expert, stimuli, modalities, timestep, task="generation"):
    """Each modality's mean state in every block: {modality: (block, sample, dim)}; blocks of several widths: a list."""
    shown = expert.show(stimuli, modalities, task, timestep)
    with torch.inference_mode(), capture(expert.model, ["embeddings", *expert.blocks]) as taps:
        shown.run()
    found: dict[str, list[torch.Tensor]] = {m: [] for m in modalities}
    for state in taps.values():
        for modality in modalities:
            stream = shown.streams.get(modality)
            if stream is not None and stream not in state:
                continue  # the text of SD3's last block
            one = (state if stream is None else state[stream]).movedim(shown.dim_axis, -1)
            tokens, dim = shown.tokens[modality], one.shape[-1]
            if tokens is None:
                mean = one.reshape(len(stimuli), -1, dim).mean(1)
            elif tokens.dtype == torch.bool:
                rows = one.reshape(len(stimuli), -1, dim)
                mean = torch.stack([row[kept].mean(0) for row, kept in zip(rows, tokens)])
            else:
                mean = torch.stack([one.reshape(-1, dim)[row[row >= 0]].mean(0) for row in tokens])
            found[modality].append(mean)
    return found


def close(one, other):
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(one, other, strict=True))


# ---- what the denoiser is given


def flat(value):
    """The tensors and numbers of a denoiser's arguments, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flat(value[key])]
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("family", TINY)
def test_the_denoiser_is_called_as_by_the_pipeline_itself(experts, family):
    """A whole step of the untouched pipeline, without guidance, against a recorded call at its latents and timestep."""
    expert, called = experts(family), []
    steps = 2 if family == "LTX" else 1  # its schedule has no single step
    hook = expert.model.register_forward_pre_hook(
        lambda m, args, kwargs: called.append((args, kwargs)), with_kwargs=True
    )
    size = {"height": expert.side, "width": expert.side}
    more = {"num_frames": 1} if family in ("Wan", "CogVideoX", "LTX", "Cosmos3") else {}
    more |= {"use_resolution_binning": False} if family in ("PixArt", "Sana", "HunyuanDiT") else {}
    more |= {} if family in ("Flux", "Qwen-Image") else {"guidance_scale": 1.0}
    prompts = [s.text for s in STIMULI][: 1 if family == "Cosmos3" else 3]
    generator = torch.Generator().manual_seed(3)
    try:
        expert.pipe(
            prompt=prompts, num_inference_steps=steps, generator=generator, output_type="latent", **size, **more
        )
    finally:
        hook.remove()
    assert len(called) == steps, "the pipeline guides"
    time, again = float(expert.pipe.scheduler.timesteps[0]), torch.Generator().manual_seed(3)
    still = frozen_scheduler(expert.pipe.scheduler, torch.tensor([time]), 1.0)
    ours = record_call(
        expert.pipe, expert.model, prompts, lambda shape: torch.randn(shape, generator=again), still, **size
    )
    theirs = inspect.signature(expert.model.forward).bind(*called[0][0], **called[0][1]).arguments
    assert list(ours.arguments) == list(theirs)
    for one, other in zip(flat(ours.arguments), flat(theirs), strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=1e-6) if torch.is_tensor(one) else one == other


class _Decoded(Exception):
    pass


@pytest.mark.parametrize("family", TINY)
def test_clean_latents_are_what_the_pipeline_decodes_to_the_image(experts, family, monkeypatch):
    """A pipeline whose steps change nothing, started from our latents, hands its autoencoder that image's own code."""
    expert = experts(family)
    vae, given = expert.pipe.vae, []
    monkeypatch.setattr(vae, "decode", lambda z, *args, **kwargs: (given.append(z), (_ for _ in ()).throw(_Decoded))[0])
    image = to_pixels([STIMULI[0].image], expert.side, expert.side)
    clean = clean_latents(expert.pipe, image)
    still = frozen_scheduler(expert.pipe.scheduler, torch.tensor([500.0]), 0.5)
    kind = type(still)
    still.__class__ = type(kind.__name__, (kind,), {"step": lambda self, out, t, sample, *a, **k: (sample, sample)})
    runner = copy.copy(expert.pipe)
    runner.scheduler = still
    more = {"num_frames": 1} if family in ("Wan", "CogVideoX", "LTX", "Cosmos3") else {}
    more |= {"use_resolution_binning": False} if family in ("PixArt", "Sana", "HunyuanDiT") else {}

    def draw(shape):
        return clean.transpose(1, 2) if clean.shape != tuple(shape) else clean

    with pytest.raises(_Decoded), Noise(draw):
        runner(prompt=["a"], num_inference_steps=1, height=expert.side, width=expert.side, output_type="pt", **more)
    with torch.no_grad():
        coded = vae.encode(image[:, :, None] if given[0].dim() == 5 else image)
    mode = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latent
    assert torch.allclose(given[0], mode, atol=1e-5)
    assert clean.std() > 0


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL", "CogVideoX", "HunyuanDiT", "PixArt"])
def test_noise_is_added_as_by_a_variance_preserving_scheduler(experts, family):
    scheduler = experts(family).pipe.scheduler
    level = experts(family).convention.level(0.4)
    assert level.timestep == 399
    clean, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    plain = DDPMScheduler.from_config(scheduler.config)
    plain.alphas_cumprod = scheduler.alphas_cumprod
    wanted = plain.add_noise(clean, noise, torch.tensor([399, 399]))
    assert torch.allclose(level.signal * clean + level.noise * noise, wanted, atol=1e-6)


@pytest.mark.parametrize("family", ["SD 3.5", "Flux", "LTX", "Wan", "Sana", "Cosmos3"])
def test_noise_is_added_by_flow_matching(experts, family):
    assert experts(family).convention.level(0.4) == pytest.approx((400.0, 0.6, 0.4, 0.4))


def test_noisy_latents_and_times_reach_the_denoiser(experts):
    """Of SD3, by hand: (1 - t) (mode - shift) scale + t noise, at 1000 t; Flux's timestep is t, Lumina's 1 - t."""
    expert = experts("SD 3.5")
    given = expert.call(STIMULI, ("image",), 0.3).arguments
    vae = expert.pipe.vae
    mode = vae.encode(to_pixels([s.image for s in STIMULI], 16, 16)).latent_dist.mode()
    clean = (mode - vae.config.shift_factor) * vae.config.scaling_factor
    wanted = 0.7 * clean + 0.3 * noise_for([s.id for s in STIMULI], (4, 8, 8))
    assert torch.allclose(given["hidden_states"], wanted, atol=1e-5)
    assert given["timestep"].tolist() == pytest.approx([300.0] * 3)
    for family, time in (("Flux", 0.3), ("Lumina 2", 0.7), ("Qwen-Image", 0.3), ("Flux 2", 0.3)):
        timestep = experts(family).call(STIMULI, ("image",), 0.3).arguments["timestep"]
        assert timestep.tolist() == pytest.approx([time] * 3), family


def test_pipeline_and_scheduler_stay_as_they_were(experts):
    pipe = experts("Flux").pipe
    before, config = pipe.scheduler, dict(pipe.config)
    state = {name: value for name, value in vars(before).items() if not torch.is_tensor(value)}
    experts("Flux").call(STIMULI, ("image", "text"), 0.3)
    assert pipe.scheduler is before
    assert {name: value for name, value in vars(before).items() if not torch.is_tensor(value)} == state
    assert dict(pipe.config) == config
    assert not pipe.transformer._forward_pre_hooks
    assert not pipe.text_encoder._forward_pre_hooks


def test_guidance_that_stays_on_is_refused(experts):
    pipe = copy.copy(experts("SD 1.5").pipe)
    kind = type(pipe)
    pipe.__class__ = type("Guided", (kind,), {"do_classifier_free_guidance": True, "__call__": kind.__call__})
    with pytest.raises(RuntimeError, match="one prompt became a batch of two: guidance is on"):
        pipeline_expert(pipe, "guided", 32)


# ---- what is read


@pytest.mark.parametrize("family", TINY)
def test_modalities_and_blocks(experts, family):
    expert = experts(family)
    assert expert.modalities == (("image", "text") if family in (*BOTH, "Cosmos3") else ("image",))
    assert (expert.tasks, expert.timed_tasks) == (("generation",), ("generation",))
    if family in ("SD 1.5", "SDXL"):
        assert expert.blocks == ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
    elif family == "Flux":
        dual, single = ([f"{stack}.{i}" for i in range(n)] for stack, n in
                        (("transformer_blocks", 2), ("single_transformer_blocks", 3)))  # fmt: skip
        assert expert.blocks == (*dual, *single)
    else:
        assert len(expert.blocks) == {"HunyuanDiT": 4, "Flux 2": 2, "AuraFlow": 2, "Chroma": 2}.get(family, 3)


@pytest.mark.parametrize("family", TINY)
def test_separate_passes_see_one_modality(experts, family):
    """The image pass is independent of the caption, the text pass of the image; the timestep changes image states."""
    expert = experts(family)
    one = STIMULI[:1]
    other_text = [one[0]._replace(text="nothing of the kind")]
    other_image = [one[0]._replace(image=STIMULI[1].image)]
    image = means(expert, one, ("image",), 0.5)["image"]
    assert close(image, means(expert, other_text, ("image",), 0.5)["image"])
    assert not close(image, means(expert, other_image, ("image",), 0.5)["image"])
    assert not close(image, means(expert, one, ("image",), 0.2)["image"])
    if "text" in expert.modalities:
        read = means(expert, one, ("text",), 0.5)["text"]
        assert close(read, means(expert, other_image, ("text",), 0.2)["text"])
        assert not close(read, means(expert, other_text, ("text",), 0.5)["text"])
        joint = means(expert, one, ("image", "text"), 0.5)
        assert not close(joint["image"], image)
        assert not close(joint["image"], means(expert, other_text, ("image", "text"), 0.5)["image"])


@pytest.mark.parametrize("family", [family for family in TINY if family != "Cosmos3"])
def test_the_batch_does_not_matter(experts, family):
    """Noise is each sample's own, and neither padding nor places in the sequence mix samples up."""
    expert = experts(family)
    # CogView4's own pipeline pads prompts to the longest of a batch and lets words attend to the padding.
    for modality in expert.modalities[: 1 if family == "CogView4" else 2]:
        together = means(expert, STIMULI, (modality,), 0.5)[modality]
        for row in (0, 2):
            alone = means(expert, STIMULI[row : row + 1], (modality,), 0.5)[modality]
            assert close([state[row : row + 1] for state in together], alone)
    noise = [expert.call(STIMULI, (m,), 1.0).arguments for m in ("image", "text")]
    first, second = (next(iter(given.values())) for given in noise)
    assert not torch.allclose(first[0], first[1])  # each sample its own
    assert not torch.allclose(first, second)  # each pass its own


@pytest.mark.parametrize("family", BOTH)
def test_text_tokens_are_the_words(experts, family):
    """One token a letter: as many text tokens as letters, twice with SD3's two kinds of text encoders."""
    expert = experts(family)
    texts = ["ab", "a red circle"]
    samples = [STIMULI[i]._replace(text=text) for i, text in enumerate(texts)]
    tokens = expert.show(samples, ("text",), "generation", None).tokens["text"]
    counts = ((tokens >= 0) if tokens.dtype == torch.int64 else tokens).sum(1).tolist()
    assert counts == [len(text) * (2 if family == "SD 3.5" else 1) for text in texts]


@pytest.mark.parametrize(("family", "count"), [("Flux 2", 3), ("AuraFlow", 1), ("Chroma", 1)])
def test_single_stream_blocks_behind_dual_ones(experts, family, count):
    """What enters them is what leaves the last dual-stream block, stream by stream."""
    expert = experts(family)
    single = expert.single_stream()
    assert single.blocks == tuple(f"single_transformer_blocks.{i}" for i in range(count))
    for modality in ("image", "text"):
        dual, after = (means(subject, STIMULI, (modality,), 0.5)[modality] for subject in (expert, single))
        assert close([dual[-1]], [after[0]])
        assert len(after) == count + 1
        assert not close([after[0]], [after[-1]])
    with pytest.raises(ValueError, match="has no further blocks"):
        experts("Flux").single_stream()


def test_the_text_encoder_stands_in_for_text(experts):
    reader = experts("PixArt").text_expert()
    read = means(reader, STIMULI, ("text",), None, "understanding")["text"]
    states = experts("PixArt").call(STIMULI, ("text",), None).arguments["encoder_hidden_states"]
    assert read[-1].shape == (3, states.shape[-1])
    assert len(read) == 3
    assert reader.modalities == ("text",)


# ---- Cosmos3


def test_cosmos3_reads_and_draws(experts):
    expert = experts("Cosmos3")
    assert isinstance(expert, Cosmos3Expert)
    reader = expert.reader()
    assert (reader.tasks, reader.modalities, reader.timed_tasks) == (("understanding",), ("text",), ())
    one = STIMULI[:1]
    shown = reader.show(one, ("text",), "understanding", None)
    words = shown.tokens["text"]
    assert words is not None
    assert words.shape == (1, len(one[0].text))
    read = means(reader, one, ("text",), None, "understanding")["text"]
    drawn = means(expert, one, ("text",), None)["text"]
    assert read[0].shape == drawn[0].shape == (1, 16)
    assert not close(read, drawn)  # another template before the words


def test_cosmos3_refuses_what_it_cannot_know(experts):
    expert = experts("Cosmos3")
    with pytest.raises(ValueError, match="one sample a pass, its sequences are not batched: got 3, use batch_size=1"):
        expert.show(STIMULI, ("image",), "generation", 0.5)
    with pytest.raises(ValueError, match="takes no image for understanding"):
        expert.show(STIMULI[:1], ("image",), "understanding", None)
