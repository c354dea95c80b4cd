# Each target does all of its own set-up. Needed beforehand: Python 3.11 or later (PYTHON=python3.12 make …).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
OUT := build/quickstart
BASE := koala-700m

.PHONY: quickstart test test-full lint clean

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run  PYTHON=python3.11 make …"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

quickstart: $(READY)  ## the main job: export ×3, check, merge two LoRAs in two dialects, show the coefficients
	@mkdir -p $(OUT)
	$(BIN)/python -m lorarar.synthetic --base $(BASE) --rank 16 --seed 1 --dialect kohya -o $(OUT)/content.safetensors
	$(BIN)/python -m lorarar.synthetic --base $(BASE) --rank 32 --seed 2 --dialect peft -o $(OUT)/style.safetensors
	@for target in onnx coreml executorch; do set -e; \
	  $(BIN)/python -m export.hypernet --target $$target --base $(BASE) --untrained --out $(OUT)/$$target; \
	  $(BIN)/python -m runtime_py.check $(OUT)/$$target --json $(OUT)/check-$$target.json; \
	  $(BIN)/python -m runtime_py.merge $(OUT)/$$target $(OUT)/content.safetensors $(OUT)/style.safetensors \
	    -o $(OUT)/merged-$$target.safetensors --coefficients-plot $(OUT)/coefficients-$$target.png; \
	done
	@echo; echo "Made in $(OUT):"
	@echo "  onnx, coreml, executorch   bundles of the merger for $(BASE), each checked against PyTorch"
	@echo "  merged-*.safetensors       content (kohya) and style (PEFT) merged through each of them"
	@echo "  coefficients-*.png         what the merge gave to each layer: look at one"
	@echo "The two LoRAs and the hypernetwork are random numbers: the arithmetic is shown here, not a style."

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## lint, types, tests
	$(BIN)/python -m pytest -m "not full"

test-full: $(READY)  ## full sizes: every target of SDXL and KOALA within its time and memory
	$(BIN)/python -m pytest -m full

clean:
	rm -rf $(VENV) build
