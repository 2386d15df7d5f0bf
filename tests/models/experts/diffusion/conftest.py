"""Tiny pipelines, saved and opened once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from bridgework.models.experts.diffusion.opening_pipelines import open_pipeline
from bridgework.models.experts.diffusion.pipeline_expert import PipelineExpert
from bridgework.tests.models.tiny_pipelines import SIDES, save


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Each family's folder, written when first asked for."""
    return cache(lambda family: save(family, tmp_path_factory.mktemp("pipeline")))


@pytest.fixture(scope="session")
def experts(pipeline_folder) -> Callable[[str], PipelineExpert]:
    """Each family's expert, opened when first asked for; tests leave it as it is."""
    return cache(lambda family: open_pipeline(pipeline_folder(family), side=SIDES.get(family, 32)))
