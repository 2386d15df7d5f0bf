"""Score models and break their bridges one at a time."""

from .link_ablation import ablate_links
from .reporting import open_model, report
from .scores import Drawn, answer, answers, draw_scenes, evaluate, question_accuracy, scene_score, skills_of

__all__ = [
    "Drawn",
    "ablate_links",
    "answer",
    "answers",
    "draw_scenes",
    "evaluate",
    "open_model",
    "question_accuracy",
    "report",
    "scene_score",
    "skills_of",
]
