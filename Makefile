# make demo | test | lint | bench | readme | pictures | thumbnails | clean
#
# Each target sets up what it needs in .venv, from the package registry alone. PYTHON chooses the interpreter (3.10 or
# later); ARGS is handed on: make test ARGS="-k geometry".

PYTHON ?= python3
ARGS ?=

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint lint-style lint-types lint-imports bench readme pictures thumbnails clean
.DELETE_ON_ERROR:

# What a clinical machine has, and nilearn and pydeface for their heads: no torch.
demo: $(VENV)/demo.stamp
	$(RUN) demo/brain.py $(ARGS)

# Each file's tests run in one process; as many files at a time as there are cores.
test: $(VENV)/dev.stamp
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: lint-style lint-types lint-imports

lint-style: $(VENV)/dev.stamp
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

lint-types: $(VENV)/dev.stamp
	$(RUN) -m mypy

lint-imports: $(VENV)/dev.stamp
	$(BIN)/lint-imports

# Writes docs/benchmarks.md and its picture. Stock nnU-Net and MONAI are part of it: torch is needed.
bench: $(VENV)/dev.stamp
	$(RUN) Testing/Benchmarks/bench.py $(ARGS)

# Writes the tables of packs in README.md and docs/distillation-guide.md from the manifests of the shipped packs.
readme: $(VENV)/demo.stamp
	$(RUN) Testing/Benchmarks/packs_table.py $(ARGS)

# Draws docs/images/slicer-*.png with Slicer's own view code (slicer-core), and the panel with plain Qt.
pictures: export PYTHONPATH := Testing/Python
pictures: $(VENV)/dev.stamp
	$(RUN) docs/make_pictures.py
	$(RUN) docs/make_panel_picture.py

# Draws KDSegmentator/Resources/Tasks/*.png, what each task finds, from results of the shipped packs.
thumbnails: export PYTHONPATH := demo
thumbnails: $(VENV)/dev.stamp
	$(RUN) docs/make_thumbnails.py $(ARGS)

clean:
	rm -rf $(VENV) demo-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/created.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "KDSegmentator needs Python 3.10 or later, this is " + sys.version.split()[0] + "; choose another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Of pydeface the demo takes one file. What pydeface itself depends on (nipype, FSL) is left out.
HEADS := $(INSTALL) --no-deps pydeface

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/created.stamp
	$(INSTALL) -e '.[demo]'
	$(HEADS)
	touch $@

# One pip run, so that torch and nnU-Net are resolved together: constraints.txt holds the torch and torchvision that fit.
$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/created.stamp
	$(INSTALL) -e '.[demo,distill,dev,slicer-test]'
	$(HEADS)
	touch $@ $(VENV)/demo.stamp
