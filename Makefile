# make demo    install into .venv and run the embedded search: SUPPORT2, six tasks, all 63 subsets
# make test    install into .venv and run the fast tests      make slow    the tests that take minutes
# make wheel   dist/: source distribution and wheel, checked; the nodes of cluster.yaml install the wheel
# make docs    site/: the documentation, opens from the disk  (docs/ holds its pages)
# make tutorials   execute docs/tutorials anew and keep their answers (some minutes)
# make audit   the pinned versions against the advisory databases; says so where these cannot be reached
# make lint    ruff: rules and formatting                     make types   mypy --strict
#
# TORCH_ARGS goes to pip when torch is installed, for example to name a package index with CPU-only builds.
# TEST_WORKERS is the number of processes of the fast tests, each with one thread for its arithmetic.

PYTHON ?= python3
TEST_WORKERS ?= 2
TORCH_ARGS ?=
BIN := .venv/bin
# Every process of the tests would compile all modules anew where a machine forbids to keep what was compiled.
export PYTHONDONTWRITEBYTECODE :=
SOURCES := benchmarks examples jobs model tests tim_search
INSTALLED := .venv/.installed
DOCUMENTED := .venv/.installed-docs

.DELETE_ON_ERROR:
.PHONY: demo test slow lint types wheel docs tutorials audit

demo: $(INSTALLED)
	$(BIN)/tim-search demo --out runs/demo
	@echo "commands  are in $(BIN): run '. $(BIN)/activate' once in a shell, then for example 'tim-search tim runs/demo'"

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.rules --every-rule -m "not slow" -n $(TEST_WORKERS) --dist loadfile

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check $(SOURCES)

types: $(INSTALLED)
	$(BIN)/mypy

wheel: $(INSTALLED)
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	cp constraints.txt dist/

docs: $(DOCUMENTED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --clean

tutorials: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python docs/execute.py docs/tutorials/*.ipynb

# In an environment of its own, so that the auditor changes nothing of what it audits. A version that no database was
# asked about is "skipped"; where that is all of them nothing was audited, which is no failure of the project.
audit:
	mkdir -p build && rm -f build/audit.json
	test -x build/audit/bin/python || $(PYTHON) -m venv build/audit
	-build/audit/bin/python -m pip install --quiet pip-audit
	code=0; build/audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip -f json -o build/audit.json || code=$$?; \
	if grep -qs '"vulns"' build/audit.json; then build/audit/bin/python -m json.tool build/audit.json; exit $$code; fi; \
	echo "NOT AUDITED: no advisory database could be reached."

# torch first: it is by far the largest download, and TORCH_ARGS must not apply to anything else.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv; the first time this takes some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(DOCUMENTED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@
