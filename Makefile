# Assumes python3 (3.11 or newer, with venv) and make; everything else is made here, in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
PRESET ?= demo
export OMP_NUM_THREADS ?= 1
# Compiling torch and transformers anew in every process costs six seconds each time.
unexport PYTHONDONTWRITEBYTECODE
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := true

.PHONY: install demo demo-full test test-all check fix bench params

install: $(STAMP)

$(STAMP): requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	# librosa compiles itself at first import: here, by one process (docs/stack.md says why).
	EAGER_IMPORT=1 $(BIN)/python -c "import librosa.core, librosa.filters, librosa.feature, librosa.util"
	touch $@

demo: install                  # the whole chain on the embedded corpus
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

demo-full: install             # the same at length: 400 clips, ten times the steps
	$(MAKE) params PRESET=demo-full
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	$(BIN)/python -m train.compare

test: install                  # what every change must pass
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: install              # adds the long ones
	SETLIST_KILLS=8 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu and not hub and not bench"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

fix: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m pytest -m bench -s

params: $(if $(SIZE),install)   # make params PRESET=gpu16 SIZE=large; without SIZE the preset as it is
	@test -f pipeline/presets/$(PRESET).yaml || { echo "no preset $(PRESET); there are: $(basename $(notdir $(wildcard pipeline/presets/*.yaml)))"; exit 2; }
	@if [ -n "$(SIZE)" ]; then $(BIN)/python -m pipeline.engine.presets $(PRESET) $(SIZE) > params.yaml.new || { rm params.yaml.new; exit 2; }; else cp pipeline/presets/$(PRESET).yaml params.yaml.new; fi
	@if [ -f params.yaml ] && ! cmp -s params.yaml params.yaml.new; then cp --backup=numbered params.yaml params.yaml.old; echo "your params.yaml is kept as params.yaml.old (older ones as params.yaml.old.~N~)"; fi
	@mv params.yaml.new params.yaml
	@mkdir -p checkpoints
	@echo "params.yaml is now $(PRESET)$(if $(SIZE), for $(SIZE))"
