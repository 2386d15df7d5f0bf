"""Train fused models, unified models and the shipped experts."""

from .loop import fit
from .recipe import Recipe, run_recipe
from .train_model import CHECKPOINTS, EVERY, question_tokenizer, train
from .train_model import question_tokenizer as reader_of

__all__ = ["CHECKPOINTS", "EVERY", "Recipe", "fit", "question_tokenizer", "reader_of", "run_recipe", "train"]
