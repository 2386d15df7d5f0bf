"""Caches of diffusers are recognised on real models; offloading and casting, which change no state, are not."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import hooks

from bridgework.probes.hooks.model_memory import check_no_cache

CACHES = {
    "faster": diffusers.FasterCacheConfig(current_timestep_callback=lambda: 500),
    "pyramid": diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "first block": diffusers.FirstBlockCacheConfig(threshold=0.1),
    "mag": diffusers.MagCacheConfig(mag_ratios=torch.ones(4), num_inference_steps=4),
    "taylor": diffusers.TaylorSeerCacheConfig(),
}


@pytest.fixture
def flux():
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("config", CACHES.values(), ids=CACHES)
def test_a_cache_is_refused_until_it_is_off(flux, config):
    check_no_cache(flux)
    flux.enable_cache(config)
    with pytest.raises(RuntimeError, match="of FluxTransformer2DModel is a cache"):
        check_no_cache(flux)
    flux.disable_cache()
    check_no_cache(flux)


def test_a_cache_put_on_by_hand_is_refused(flux):
    hooks.apply_first_block_cache(flux, hooks.FirstBlockCacheConfig(threshold=0.1))
    assert not flux.is_cache_enabled
    with pytest.raises(RuntimeError, match=r"disable_cache\(\)"):
        check_no_cache(flux)


def test_the_cache_of_only_the_single_stack_is_found_in_a_model_around_it(flux):
    around = torch.nn.ModuleDict({"inner": flux})
    flux.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(RuntimeError, match=r"'inner\.transformer_blocks\.0'"):
        check_no_cache(around)


def test_layer_skip_is_refused(flux):
    hooks.apply_layer_skip(flux, hooks.LayerSkipConfig(indices=[1], fqn="transformer_blocks"))
    with pytest.raises(RuntimeError, match="skips or blurs parts"):
        check_no_cache(flux)


def test_casting_passes(flux):
    hooks.apply_layerwise_casting(flux, storage_dtype=torch.float16, compute_dtype=torch.float32)
    check_no_cache(flux)


def test_offloading_passes(flux):
    hooks.apply_group_offloading(flux, onload_device=torch.device("cpu"), offload_type="leaf_level")
    check_no_cache(flux)
