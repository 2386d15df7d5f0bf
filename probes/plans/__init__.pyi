from .bridge_plan import LAYOUTS as LAYOUTS
from .bridge_plan import STREAMS as STREAMS
from .bridge_plan import TRUNKS as TRUNKS
from .bridge_plan import BridgePlan as BridgePlan
from .choosing import choose_bridges as choose_bridges
from .choosing import score_plan as score_plan
from .layouts import lay_out as lay_out
from .rules import RULES as RULES
