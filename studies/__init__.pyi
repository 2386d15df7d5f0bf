from .alignment_curves import read_map as read_map
from .runs import demo as demo
from .runs import reproduce as reproduce
from .settings import EXPERTS as EXPERTS
from .settings import RESULTS as RESULTS
from .verdict.caption_knowledge import kept_kinds as kept_kinds
