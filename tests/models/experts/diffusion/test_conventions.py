"""Time, sign and scale as each pipeline's own loop has them, whatever its class and its scheduler are called."""

from __future__ import annotations

from functools import cache

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from bridgework.models.experts.diffusion.latent_generator import LatentGenerator
from bridgework.models.experts.diffusion.latents import clean_latents
from bridgework.models.experts.diffusion.opening_pipelines import pipeline_expert
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.probes.stimuli.controls import noise_for
from bridgework.probes.stimuli.images import to_pixels
from bridgework.tests.models.odd_pipelines import build

TEXTS = ("a dot", "two red rings", "a green square above a blue cross")
STIMULI = [s._replace(text=text) for s, text in zip(scene_stimuli("train", 3), TEXTS, strict=True)]


@pytest.fixture(scope="module")
def odd():
    """Each odd family's expert, opened when first asked for."""
    return cache(lambda family: pipeline_expert(build(family), family, 32))


def words(expert, texts):
    """How many text tokens each caption has; one token a letter."""
    samples = [STIMULI[0]._replace(text=text) for text in texts]
    tokens = expert.show(samples, ("text",), "generation", None).tokens["text"]
    return ((tokens >= 0) if tokens.dtype == torch.int64 else tokens).sum(1).tolist()


@pytest.mark.parametrize(
    ("family", "target", "sigma", "cut"),
    [
        ("SD 3.5", "noise - image", "t", False), ("Flux", "noise - image", "t", False),
        ("Lumina 2", "image - noise", "t", False), ("Wan", "noise - image", "t", True),
        ("Sana", "noise - image", "t", True), ("Cosmos3", "noise - image", "t", True),
    ],
)  # fmt: skip
def test_flow_matching(experts, family, target, sigma, cut):
    convention = experts(family).convention
    assert convention.flow
    assert (convention.target, convention.sigma, convention.whole) == (target, sigma, cut)


@pytest.mark.parametrize(
    ("family", "target"),
    [("SD 1.5", "noise"), ("SDXL", "noise"), ("PixArt", "noise"), ("HunyuanDiT", "noise"), ("CogVideoX", "v")],
)
def test_variance_preserving(experts, family, target):
    convention = experts(family).convention
    assert not convention.flow
    assert convention.target == target


# ---- reports


def test_mochi_counts_from_noise_to_image(odd):
    """At t = .2 its own loop tells 800, and adds what its denoiser returns on the way to the image."""
    expert = odd("Mochi")
    given = expert.call(STIMULI, ("image",), 0.2).arguments
    assert given["timestep"].tolist() == pytest.approx([800.0] * 3)
    clean = clean_latents(expert.pipe, to_pixels([s.image for s in STIMULI], 32, 32))
    noise = noise_for([s.id for s in STIMULI], tuple(clean.shape[1:]))
    assert torch.allclose(given["hidden_states"], 0.8 * clean + 0.2 * noise, atol=1e-5)
    drawer, times = LatentGenerator(expert), torch.tensor([0.2, 0.9])
    noisy = torch.randn(2, *drawer.size)
    arguments = drawer.expert.record(["", ""], 1.0, torch.zeros).arguments
    told = arguments | {"hidden_states": noisy[:, :, None], "timestep": 1000 * (1 - times)}
    with torch.no_grad():
        wanted = noisy + times[:, None, None, None] * expert.model(**told)[0][:, :, 0]
        assert torch.allclose(drawer.predict(noisy, drawer.encode(["", ""]), times), wanted, atol=1e-5)


@pytest.mark.parametrize("time", [0.2, 0.5, 0.8, 1.0])
def test_cosmos_2_scales_what_it_is_given(odd, time):
    """Its sigmas are t / (1 - t), its noise is drawn 80 times as large, and its denoiser is given (1 - t) of it."""
    expert = odd("Cosmos 2")
    given = expert.call(STIMULI, ("image",), time).arguments
    clean = clean_latents(expert.pipe, to_pixels([s.image for s in STIMULI], 32, 32))
    noise = noise_for([s.id for s in STIMULI], tuple(clean.shape[1:]))
    assert torch.allclose(given["hidden_states"], (1 - time) * clean + time * noise, atol=1e-4)
    assert given["timestep"].tolist() == pytest.approx([time] * 3, abs=2e-5)


def test_cosmos_2_draws_what_it_denoises(odd):
    drawer = LatentGenerator(odd("Cosmos 2"))
    noisy, times = torch.randn(2, *drawer.size), torch.tensor([0.2, 0.7])
    arguments = drawer.expert.record(["", ""], 1.0, torch.zeros).arguments
    with torch.no_grad():
        velocity = drawer.model(**arguments | {"hidden_states": noisy[:, :, None], "timestep": times})[0][:, :, 0]
        wanted = noisy - times[:, None, None, None] * velocity
        assert torch.allclose(drawer.predict(noisy, drawer.encode(["", ""]), times), wanted, atol=1e-5)


def test_longcat_image_reads_the_caption_itself(odd):
    expert = odd("LongCat-Image")
    assert words(expert, TEXTS) == [5, 13, 33]
    with pytest.raises(RuntimeError, match="its text_encoder writes something new"):
        expert.record(["red ball"], 1.0, torch.zeros, enable_prompt_rewrite=True)


def test_cogview4_tells_the_time_before_its_shift(experts):
    """Its sigmas are shifted by the picture's size, its timesteps are not: noise .5 goes with an earlier timestep."""
    expert = experts("CogView4")
    scheduler, told = expert.pipe.scheduler, expert.convention.level(0.5).timestep
    tokens = (expert.side // 8 // 2) ** 2
    config = scheduler.config
    shift = (tokens / config.base_image_seq_len) ** 0.5 * config.max_shift + config.base_shift
    share = told / 1000
    assert shift / (shift + (1 / share - 1)) == pytest.approx(0.5, abs=1e-3)
    assert abs(told - 500) > 50


# ---- schedulers


class InThousandths(FlowMatchEulerDiscreteScheduler):
    """Count time from 0 to 1."""

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps / 1000


class Backwards(FlowMatchEulerDiscreteScheduler):
    """Count time from noise to image."""

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.timesteps = 1000 - self.timesteps


class Negated(FlowMatchEulerDiscreteScheduler):
    """Take the denoiser's output with the other sign."""

    def step(self, model_output, *args, **kwargs):
        return super().step(-model_output, *args, **kwargs)


class Restless(FlowMatchEulerDiscreteScheduler):
    """Tell timesteps that are no function of the noise."""

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps * torch.linspace(1, 2, len(self.timesteps))


@pytest.mark.parametrize(
    ("kind", "told", "target"),
    [(InThousandths, 0.3, "noise - image"), (Backwards, 700.0, "noise - image"), (Negated, 300.0, "image - noise")],
)
def test_schedulers_of_other_units_and_signs(experts, kind, told, target):
    pipe = experts("SD 3.5").pipe
    expert = pipeline_expert(type(pipe)(**{**pipe.components, "scheduler": kind(shift=3.0)}), "changed", 16)
    assert expert.call(STIMULI, ("image",), 0.3).arguments["timestep"].tolist() == pytest.approx([told] * 3, abs=1e-3)
    assert expert.convention.target == target


EPSILON = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    ("scheduler", "target"),
    [
        (diffusers.EulerDiscreteScheduler(**EPSILON, use_karras_sigmas=True), "noise"),
        (diffusers.EulerAncestralDiscreteScheduler(**EPSILON), "noise"),
        (diffusers.DDPMScheduler(**EPSILON, variance_type="fixed_large"), "noise"),
        (diffusers.DPMSolverMultistepScheduler(**EPSILON, use_karras_sigmas=True), "noise"),
        (diffusers.LCMScheduler(**EPSILON), "noise"),
        (diffusers.HeunDiscreteScheduler(**EPSILON), "noise"),
        (diffusers.DDIMScheduler(**EPSILON, prediction_type="sample"), "image"),
        (diffusers.EulerDiscreteScheduler(**EPSILON, prediction_type="v_prediction"), "v"),
    ],
)
def test_samplers_of_one_schedule_show_the_same(experts, scheduler, target):
    pipe = experts("SD 1.5").pipe
    parts = {**pipe.components, "scheduler": scheduler}
    expert = pipeline_expert(type(pipe)(**parts, requires_safety_checker=False), "sampler", 16)
    assert (expert.convention.flow, expert.convention.target) == (False, target)
    assert expert.convention.level(0.4).timestep == 399


# ---- refused in one sentence


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(), Restless(),
        diffusers.EulerDiscreteScheduler(**EPSILON, prediction_type="v_prediction", timestep_type="continuous"),
    ],
)  # fmt: skip
def test_schedules_that_are_not_known(experts, scheduler):
    pipe = experts("SD 3.5").pipe
    with pytest.raises(ValueError, match=r"neither flow matching nor variance|gives its denoiser another|stops with"):
        pipeline_expert(type(pipe)(**{**pipe.components, "scheduler": scheduler}), "strange", 16)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("HiDream", "not given its text as one tensor encoder_hidden_states, but among .*llama3"),
        ("Krea 2", "one sequence whose order is not known here"),
        ("Sana Sprint", "with SCMScheduler does not draw a picture from a prompt alone in a few steps"),
        ("Kandinsky 2.2", "has no autoencoder of images called vae"),
    ],
)
def test_pipelines_that_are_refused_when_opened(odd, family, sentence):
    with pytest.raises(ValueError, match=sentence):
        odd(family)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("Kandinsky 5", "starts from latents .* its autoencoder gives"),
        ("Wan 2.2", "is another denoiser meant for this"),
    ],
)
def test_pipelines_that_are_refused_before_the_first_pass(odd, family, sentence):
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        odd(family).show(STIMULI, ("image",), "generation", 0.3)


# ---- captions


@pytest.mark.parametrize("family", ["Bria", "CogView3+", "Mochi"])
def test_captions_of_odd_pipelines(odd, family):
    """Bria does not read an empty prompt at all."""
    assert words(odd(family), TEXTS) == [5, 13, 33]


@pytest.mark.parametrize("family", ["Flux", "Qwen-Image", "SD 3.5", "Lumina 2", "CogView4", "Chroma", "AuraFlow"])
def test_a_long_caption_beside_a_short_one(experts, family):
    """However the pipeline cuts and pads, the short caption keeps its words, and cutting is said."""
    expert = experts(family)
    (alone,) = words(expert, ["ab"])
    short, long = words(expert, ["ab", "a long caption " * 200])
    assert short == alone
    assert alone < long < 15 * 200 * 2


@pytest.mark.parametrize("family", ["Latte", "Lumina"])
def test_pictures_that_odd_pipelines_are_shown(odd, family):
    assert torch.isfinite(odd(family).call(STIMULI, ("image",), 0.3).arguments["hidden_states"]).all()
