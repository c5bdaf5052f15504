# `make train` and `make test` need nothing but Python 3.11 or 3.12: they make a virtual environment and fill it.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.docs
SITE   ?= site

.PHONY: help demo train test lint bench docs gpu hub slow clean

help:
	@echo "make demo    a local page with the model that comes with the package (stylenerf view demo)"
	@echo "make train   train the quickstart on procedural scenes (minutes on a CPU)"
	@echo "make test    tests (minutes)"
	@echo "make lint    linters and type checker"
	@echo "make bench   time the ops and the model (pytest bench/)"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make gpu     test and time everything on a GPU; installs nothing (python -m bench.gpu --help)"
	@echo "make hub     lay the kernels out for the Hugging Face Hub, in dist/hub; uploads nothing"
	@echo "make slow    the long sweeps that 'make test' leaves out: every size, every compiled kernel, processes killed"
	@echo "make clean   remove the virtual environment and caches; runs/ stays"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Python: wanted 3.11 or newer, got {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(RUN) -m stylenerf view demo

train: $(READY)
	$(RUN) train.py --preset quickstart

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	mkdir -p .mypy_cache/seen/stylenerf  # mypy finds modules by their folders, so it is shown what an installation has
	ln -sfn $(addprefix ../../../,stylenerf/__init__.py stylenerf/__main__.py kernels models engine) .mypy_cache/seen/stylenerf/
	ln -sfn ../../bench .mypy_cache/seen/
	cd .mypy_cache/seen && $(if $(filter /%,$(RUN)),$(RUN),../../$(RUN)) -m mypy --config-file ../../pyproject.toml

# A process a core; a file's tests stay in one, since they share what they prepare, and files keep their order, since the
# longest are not those with the most tests.
test: $(READY)
	$(RUN) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

slow: $(READY)
	$(RUN) -m pytest -q -m slow -n auto --dist loadfile --no-loadscope-reorder

bench: $(READY)
	$(RUN) -m pytest bench/

$(DOCS): $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(DOCS)

# Not --quiet: with it mkdocs counts no warnings, and the strict build lets dead links pass.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --site-dir $(SITE)
	@echo "docs:        $(SITE)/index.html (with its search: $(RUN) -m http.server --directory $(SITE))"

# The virtual environment where there is one, else the Python at hand: a machine with a GPU has its own torch.
gpu:
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) -m bench.gpu

hub:
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) hub/make.py

clean:
	rm -rf $(VENV) $(SITE) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
