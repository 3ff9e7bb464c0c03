# `make demo` and `make test` set up everything they need on a fresh machine (Python 3.10-3.13 and a C library).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PEERS = .venv-peers
TORCH = .venv-torch
MUTANTS = .venv-mutants

.PHONY: demo demo-water-xtb demo-water-cp2k test test-servers test-engines test-torch test-adopt soak figures search mutants lint deploy-check constraints bench bench-peers docs site clean

demo: $(VENV)/.local ## copper on one machine: trains a force field to convergence (about 3 minutes after set-up)
	$(BIN)/python -W ignore examples/copper/make_test_set.py
	$(BIN)/dpgen2-sm run examples/copper/run.yaml

demo-water-xtb: $(VENV)/.local ## water, labelled by tblite
	$(BIN)/python -W ignore examples/water-xtb/make_data.py
	$(BIN)/dpgen2-sm run examples/water-xtb/run.yaml

demo-water-cp2k: $(VENV)/.local ## water, labelled by CP2K (Debian: apt-get install cp2k)
	$(BIN)/python -W ignore examples/water-cp2k/make_data.py
	$(BIN)/dpgen2-sm run examples/water-cp2k/run.yaml

test: $(VENV)/.dev ## the quick suite, two to three minutes
	$(BIN)/pytest -n 4 --dist worksteal -m "not engines and not servers and not slow and not search"

test-servers: $(VENV)/.dev ## Ceph, Slurm, the double of Argo, the image (Debian's packages; .ci/run installs them)
	$(BIN)/pytest -n 2 --dist worksteal -m "servers or slow"

test-engines: $(VENV)/.local $(VENV)/.dev ## end to end with dp, lmp, cp2k, pw.x, nwchem
	$(BIN)/pytest -n 2 --dist loadfile -m engines

test-torch: $(VENV)/.dev $(TORCH)/.pytorch $(TORCH)/.mace ## PyTorch and MACE end to end; each in a virtual environment of its own (5 GB)
	DPGEN2_TORCH_VENV=$(TORCH)/pytorch DPGEN2_MACE_VENV=$(TORCH)/mace $(BIN)/pytest -n 2 --dist loadfile -m engines \
	  tests/e2e/test_train_pytorch.py tests/e2e/test_train_mace.py

test-adopt: $(VENV)/.dev $(PEERS)/.done ## the real DP-GEN, killed before each change of an iteration: adopted, and finished (10 minutes)
	DPGEN2_PEERS_VENV=$(PEERS) $(BIN)/pytest --figures tests/e2e/test_adopt_dpgen.py

soak: $(VENV)/.dev ## kills, orders and damages at random: make soak SECONDS=3600 SEED=7
	SOAK_SECONDS=$(or $(SECONDS),600) SOAK_SEED=$(or $(SEED),1) $(BIN)/pytest -s tests/fault/test_soak.py tests/fault/test_soak_orders.py

figures: $(VENV)/.dev ## the tests that tell figures write them into docs/reliability.md
	$(BIN)/pytest -n 2 --dist worksteal -m "not engines and not search" --figures

search: $(VENV)/.dev ## every world with two accidents and two pollers; its figures too
	$(BIN)/pytest -m search --figures --durations=0 tests/search

mutants: $(MUTANTS)/.done ## changes the code and lets the tests notice: make mutants ROOM=statemachine/machine SAMPLE=60 SEED=1
	$(MUTANTS)/bin/python tests/mutate.py "$(ROOM)" $(or $(SAMPLE),0) $(or $(SEED),1)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

deploy-check: $(VENV)/.dev ## deploy/: schemas, rights, units, shell, Dockerfile, alerts, dashboard
	$(BIN)/pytest tests/unit/test_deploy.py tests/unit/test_deploy_iam.py tests/unit/test_deploy_monitoring.py

constraints: ## the image's exact versions, newest that fit (needs uv on PATH)
	sh deploy/constraints.sh

bench: $(VENV)/.local ## the figures of benchmarks/README.md; run on an idle machine, after `make bench-peers`
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/labels.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/s3.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/pods.py
	$(BIN)/python benchmarks/hook.py
	$(BIN)/python benchmarks/daemon.py
	$(BIN)/python benchmarks/report.py

bench-peers: $(PEERS)/.done ## DP-GEN, which benchmarks/orchestration.py compares with; in a virtual environment of its own

docs: $(VENV)/.dev ## the generated pages: the machine's diagram, keys of DP-GEN and DPGEN2, every key of run.yaml
	$(BIN)/python docs/make_diagram.py
	$(BIN)/python docs/make_from_dpgen.py
	$(BIN)/python docs/make_reference.py

site: $(VENV)/.dev ## the documentation as build/site/index.html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -n -c docs -d build/doctrees . build/site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

$(VENV)/.local: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e ".[local]"
	touch $@

# They want other versions of the same packages.
$(TORCH)/.%: pyproject.toml
	$(PYTHON) -m venv $(TORCH)/$*
	$(TORCH)/$*/bin/python -m pip install -q ".[$*]"
	touch $@

# Its packages are a checkout of its own, which is changed.
$(MUTANTS)/.done: pyproject.toml
	$(PYTHON) -m venv $(MUTANTS)
	rm -rf $(MUTANTS)/tree
	git clone -q . $(MUTANTS)/tree
	$(MUTANTS)/bin/python -m pip install -q "cosmic-ray==8.7.*" -e "$(MUTANTS)/tree[dev]"
	touch $@

$(PEERS)/.done:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q "dpgen==0.14.*"
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(TORCH) $(MUTANTS) runs
