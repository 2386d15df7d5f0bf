"""Sort the messages by what a user was doing, and name the page that explains it."""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """Hold one topic: its title, the page that explains it, and the modules whose messages belong to it."""

    title: str
    page: str
    modules: tuple[str, ...]


TOPICS = (
    Topic("Your own data and stimuli", "features.md", ("probes/stimuli/",)),
    Topic("Any model, its blocks and its tokens", "any_model.md", ("probes/subjects/", "probes/hooks/")),
    Topic("Checks of a model", "any_model.md", ("probes/checks/",)),
    Topic("Extraction and features", "features.md", ("probes/extraction/", "probes/features/", "probes/fingerprints/")),
    Topic("Sites, loops and generated tokens", "features.md", ("probes/reading/",)),
    Topic("Files, stores and several processes", "features.md", ("probes/files.py", "probes/tensor_files.py")),
    Topic("Similarity, layer maps and nulls", "similarity.md", ("probes/metrics/", "probes/similarity/")),
    Topic("Alignment curves", "similarity.md", ("probes/curves/",)),
    Topic("Evidence besides similarity", "results.md", ("probes/evidence/",)),
    Topic("Plans, layouts and rules", "layouts.md", ("probes/plans/",)),
    Topic("Opening experts", "families.md", ("models/experts/",)),
    Topic("Diffusion pipelines", "diffusion.md", ("models/experts/diffusion/", "models/generation/")),
    Topic("Fused and unified models", "layouts.md", ("models/fusion/", "models/bridges/", "models/towers/")),
    Topic("Fused and unified models", "layouts.md", ("models/unified/",)),
    Topic("Training", "training.md", ("models/training/",)),
    Topic("Costs", "real.md", ("models/costs/", "studies/real_costs.py")),
    Topic("Evaluation and scenes", "methods.md", ("models/evaluation/", "models/scenes/")),
    Topic("Figures", "figures.md", ("figures/",)),
    Topic("The explorer", "explorer.md", ("figures/explorer/",)),
    Topic("The verdict", "verdict.md", ("studies/verdict/",)),
    Topic("Committed studies", "results.md", ("studies/",)),
    Topic("Files, stores and several processes", "features.md", ("probes/workers/", "probes/notebook_views.py")),
    Topic("The command line", "api/command_line.md", ("",)),
)


def topic_of(file: str) -> Topic:
    """Return the topic of a module: of those that name it or a folder above it, the one that says most of it."""
    fitting = [(len(module), topic) for topic in TOPICS for module in topic.modules if file.startswith(module)]
    return max(fitting)[1]
