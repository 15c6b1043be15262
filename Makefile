# make demo   train, fit and report on real digits, in a few minutes
# make test   the test suite, then the commands once more against the built wheel from another folder
# make lint   ruff and mypy --strict
# make bench  speed, as ratios in one run
# make reference, make reference-NAME  the committed reports, made again
# Each makes .venv and installs what it needs, pinned by constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt
# Tests of servers and agents mostly wait, so more of them than cores run at a time.
JOBS := 4
# What would miss a file that the wheel lacks: every import, every command, reports, and what is started by a path.
WHEEL_TESTS := tests/test_architecture.py tests/cli/test_branch.py tests/cli/test_commands.py tests/cli/test_data.py \
	tests/cli/test_doctor.py tests/cli/test_import.py tests/cli/test_missing.py tests/cli/test_mlflow_publish.py \
	tests/cli/test_status.py tests/cli/test_ui.py tests/launch/test_kubernetes_manifest.py \
	tests/fitting/test_fit.py::test_shipped_schema_is_that_of_the_models \
	tests/launch/test_slurm_arrays.py::test_what_is_described_is_what_a_shell_would_submit

.PHONY: demo test test-tree test-wheel lint format bench reference clean

demo: $(VENV)/.installed-all
	$(BIN)/surge-sweep demo --open

test: test-tree test-wheel

test-tree: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup

# The working tree would hide a file missing from the wheel, so these tests see neither it nor the editable install.
test-wheel: $(VENV)/.installed-test
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . > build/wheel/build.log || { cat build/wheel/build.log; exit 1; }
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --target build/wheel/site build/wheel/*.whl
	cp -r tests sweep_configs pyproject.toml build/wheel/
	cd build/wheel && PYTHONPATH="$(CURDIR)/build/wheel/site" ../../$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup -m "not slow" -p no:cacheprovider $(WHEEL_TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

# The committed report: the demo in a folder of its own, so that nothing of an earlier one is in it.
reference: $(VENV)/.installed-all
	rm -rf build/reference && mkdir -p build/reference
	cd build/reference && ../../$(BIN)/surge-sweep demo
	rm -rf reports/reference/digits && mkdir -p reports/reference
	cp -r build/reference/reports/digits-demo reports/reference/digits

# The other committed reports, as `make reference-teacher`: the sweeps in reports/reference/NAME/sweeps, launched in a
# folder of their own. It may be stopped: call it again and it goes on. Data are looked for in SURGE_DATA_DIR, default data.
# Sweeps with a line here branch from a checkpoint, which is trained first.
BRANCH_resnet18-cifar10 := --losses 1.7 --steps 20 --reference-lr 0.0002 --reference-batch-size 64 --evaluate-every 20

reference-%: export SURGE_DATA_DIR := $(abspath $(or $(SURGE_DATA_DIR),data))
reference-%: export SURGE_CACHE_DIR := $(abspath $(or $(SURGE_CACHE_DIR),.surge/cache))
reference-%: SWEEPS = ../../reports/reference/$*/sweeps/*.yaml
reference-%: $(VENV)/.installed-all
	test -d reports/reference/$*/sweeps
	mkdir -p build/reference-$*
	$(if $(BRANCH_$*),cd build/reference-$* && { ls branch/*.yaml >/dev/null 2>&1 || ../../$(BIN)/surge-sweep branch $(SWEEPS) $(BRANCH_$*) --output branch; })
	cd build/reference-$* && ../../$(BIN)/surge-sweep launch $(if $(BRANCH_$*),branch/*.yaml,$(SWEEPS)) --project $* --uri sqlite:///mlflow.db --replan
	cd build/reference-$* && ../../$(BIN)/surge-report $* --uri sqlite:///mlflow.db --output report
	cp build/reference-$*/report/* reports/reference/$*/
	rm -rf build/reference-$*

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-all: $(INPUTS) | $(BIN)/python
	$(PIP) --editable '.[all]'
	touch $@

$(VENV)/.installed-test: $(INPUTS) | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed-all

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed-test $(VENV)/.installed-all
