"""Fix every number and name that the verdicts depend on. `protocol.md` quotes them, and a test holds the two equal."""

LEAST_SEEDS = 2
LEAST_PLANS = 30  # of four bridges, for each pair of experts
LEAST_UNDERSTANDING = 6  # blocks of the grid
LEAST_GENERATION = 5
ALPHA = 0.05  # of Holm's procedure over the rules
LOW_RHO = 0.2  # a partial correlation below it is of no use
LEAST_GAIN = 0.05  # of worth over the mean random plan; less is of no use
LEAST_LEFT = 0.05  # of the variance of a map's ranks; with less left beside depth, the map is depth alone
LEAST_CEILING = 0.5  # of the partial correlation that a perfect map would reach; below it a low one says nothing
PERMUTATIONS = 9999
BOOTSTRAP = 2000

RULES = (
    "alignment, mutual_knn",
    "alignment, cka",
    "alignment, cknna",
    "alignment, svcca",
    "alignment, rsa",
    "alignment, linear_probe",
    "complementarity",
    "gradient_conflict",
    "causal",
    "descent",
    "soft",
)
CONTROLS = ("shallow", "deep", "middle", "uniform", "first", "early", "last", "all", "random")
