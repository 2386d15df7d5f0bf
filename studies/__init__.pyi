from .runs import demo as demo
from .runs import reproduce as reproduce
from .settings import EXPERTS as EXPERTS
from .settings import RESULTS as RESULTS
