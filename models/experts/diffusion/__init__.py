"""Open diffusers pipelines as experts and as generators."""
