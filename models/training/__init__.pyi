from .loop import fit as fit
from .recipe import Recipe as Recipe
from .recipe import run_recipe as run_recipe
from .train_model import CHECKPOINTS as CHECKPOINTS
from .train_model import EVERY as EVERY
from .train_model import question_tokenizer as question_tokenizer
from .train_model import reader_of as reader_of
from .train_model import train as train
