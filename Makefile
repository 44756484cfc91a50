PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' constraints.txt)
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo test slow docs tutorials coverage bench-check package clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 8

demo: .venv/installed ## train on the built-in avatars and draw what it makes of identities never seen
	$(BIN)/mlvae demo --out demo

test: .venv/installed ## linter, format, types, import contracts, tests and doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(ONE_THREAD) $(BIN)/pytest -q -n 2

slow: .venv/installed ## the checks that take minutes
	$(ONE_THREAD) $(BIN)/pytest -q -m slow

# The core is what `core` of docs/trust.md names; its share is looked at alone.
CORE := src/mlvae/errors.py,src/mlvae/grouping.py,src/mlvae/labels.py,src/mlvae/normal.py,src/mlvae/evidence.py,src/mlvae/levels.py,src/mlvae/likelihoods/*,src/mlvae/networks/*,src/mlvae/batch.py,src/mlvae/schema.py,src/mlvae/group_evidence.py,src/mlvae/gallery.py,src/mlvae/identification.py,src/mlvae/heads.py,src/mlvae/inference.py,src/mlvae/model.py,src/mlvae/temperature.py,src/mlvae/penalties/*,src/mlvae/ranks.py,src/mlvae/objective.py,src/mlvae/bound.py

coverage: .venv/installed ## which branches the tests reach: 90 % of all, 95 % of the core
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 --cov --cov-report=
	$(BIN)/coverage report --fail-under 90 --skip-covered
	$(BIN)/coverage report --fail-under 95 --include '$(CORE)'

bench-check: .venv/installed ## today's speed, as ratios, against the committed; fails on a loss of more than 15 %
	$(ONE_THREAD) $(BIN)/python benchmarks/speed/run.py --only step,loop,accumulation,use --check benchmarks/speed/committed.json

docs: .venv/installed ## these pages as a site in docs/_build/html; a warning is an error
	$(ONE_THREAD) $(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

tutorials: .venv/installed ## run the tutorials again and keep their pictures (DATA=FOLDER has Omniglot and spoken digits)
	$(ONE_THREAD) DATA=$(DATA) $(BIN)/python tools/tutorials.py docs/tutorials/*.ipynb

package: .venv/installed ## wheel and source archive in dist, checked
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

clean: ## remove what was built, but no runs
	rm -rf .venv build dist demo docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage

# torch comes first and alone, so that no other package's requirement chooses its build.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
