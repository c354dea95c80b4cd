# Each target does all of its own set-up. Needed beforehand: Python 3.11 to 3.13 (PYTHON=python3.12 make …).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
RUNS := $(VENV)/runs
OUT := build/quickstart
# A subject and a style that the shipped hypernetwork was not trained on, and a seed: of those, ones that show both.
DATASET := models/miniature/dataset
CONTENT := $(DATASET)/loras/contents/dog_6.safetensors
STYLE := $(DATASET)/loras/styles/watercolor_painting_3.safetensors
IMAGES := --content-image $(DATASET)/images/contents/dog_6_0.png --style-image $(DATASET)/images/styles/watercolor_painting_3.png
PROMPT := "a sks dog in watercolor painting style"
SAMPLING := --guidance-without-lora --subject "a sks dog" --subject-class "a dog" --seed 42

.PHONY: quickstart bundles-in-view bundles-beside test test-full test-gpu test-devices test-apps test-android test-ios test-coreml test-wheel test-lowest docs lint compiled browser tools clean

# Python keeps what it compiles at the first import, of which pip then need do nothing: a process that may not keep it
# compiles for 20 s before it has imported diffusers.
unexport PYTHONDONTWRITEBYTECODE

# setuptools warns of every editable install.
$(RUNS): EXTRAS := all
$(READY): EXTRAS := all,coreai,qnn,dev,docs
$(RUNS) $(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is not of 3.11 to 3.13, which coremltools is made for; run  PYTHON=python3.11 make …"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --editable '.[$(EXTRAS)]'
	@touch $@

# Core AI's packages are not among `all`; `make test` installs them.
SHOWN := onnx coreml $(if $(wildcard $(VENV)/lib/python*/site-packages/coreai_torch),coreai) executorch

# `make test` installs more than the toolkit runs with. ExecuTorch's export takes as long as the others together: it runs
# beside them, each on one core, and is shown at the end.
quickstart: $(or $(wildcard $(READY)),$(RUNS))  ## the main job: export, check, merge two LoRAs, draw the image, each target beside the others
	@mkdir -p $(OUT)
	@OMP_NUM_THREADS=1 $(MAKE) --silent --jobs 2 bundles-in-view bundles-beside
	@cat $(OUT)/executorch.log
	$(BIN)/lorarar sheet $(addprefix $(OUT)/,$(SHOWN)) \
	  --content $(CONTENT) --style $(STYLE) $(IMAGES) --prompt $(PROMPT) --steps 20 $(SAMPLING) --out $(OUT)/sheet.png
	@echo; echo "Made in $(OUT):"
	@echo "  sheet.png                  LOOK AT THIS: a subject, a style, their merge and its strengths, drawn through each target"
	@echo "  onnx, coreml, …            bundles that make images from text with any two LoRAs, each checked against PyTorch"
	@echo "  merged-*.safetensors       the two LoRAs merged through each of them, for diffusers and PEFT"
	@echo "  coefficients-*.png         what the merge gave to each layer"

bundles-in-view:
	$(MAKE) $(addprefix bundle-,$(filter-out executorch,$(SHOWN)))

bundles-beside:
	$(MAKE) bundle-executorch >$(OUT)/executorch.log 2>&1 || { cat $(OUT)/executorch.log; exit 1; }

bundle-%:
	echo; echo "== $*"
	$(BIN)/lorarar export pipeline --target $* --out $(OUT)/$*
	$(BIN)/lorarar check $(OUT)/$* --out $(OUT)/check-$*.json
	$(BIN)/lorarar merge --bundle $(OUT)/$* $(CONTENT) $(STYLE) \
	  --out $(OUT)/merged-$*.safetensors --coefficients-plot $(OUT)/coefficients-$*.png

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

compiled: $(READY)
	@$(BIN)/python tests/support/compile_imports.py

APT_POSSIBLE = [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null
# One at a time, of all that make runs here: apt-get locks out a second one.
APT_INSTALL = flock Makefile sh -c \
  'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@"' install

# For the human study's tests. Where there is none and none can be installed, they are skipped and say so; in CI they fail.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  command -v $$name >/dev/null && exit; \
	done; \
	{ $(APT_POSSIBLE) && $(APT_INSTALL) chromium >/dev/null; } || \
	  echo "no Chromium or Chrome here, and none could be installed (that needs root and apt-get)"

test: $(READY) browser  ## lint, types, tests; installs a Chromium as root on Debian
	@$(MAKE) --jobs 2 lint compiled
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full and not devices and not apps and not gpu" -n 2 --dist worksteal

docs: $(READY)  ## the guide and the API reference, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# coremltools' own tests need other versions than the toolkit: of numpy, transformers and peft.
COREML := build/coreml/venv
$(COREML)/ready: tests/support/coreml_suite/requirements.txt
	$(PYTHON) -m venv $(COREML)
	$(COREML)/bin/python -m pip install --quiet --no-compile --requirement $<
	PYTHONWARNINGS=ignore $(COREML)/bin/python -m pip install --quiet --no-compile --no-deps --editable .
	@touch $@

test-coreml: $(COREML)/ready  ## coremltools' own tests, and real networks, by the evaluator of Core ML programs; an hour
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(COREML)/bin/python -m coreml_suite.packages $(if $(APPLE),--apple $(APPLE))
	PYTHONPATH=tests/support $(COREML)/bin/python -m coreml_suite.speed $(if $(APPLE),--apple $(APPLE))
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(COREML)/bin/python -m coreml_suite

test-wheel: $(READY)  ## a wheel in an environment of its own, outside the repository: the README's merge, and what it lacks
	$(BIN)/python tests/support/wheel_check.py

test-lowest: $(READY)  ## the lowest versions that pyproject.toml allows: every import, and the tests of LoRA files
	$(BIN)/python tests/support/lowest_versions.py

# $(call debian,PROGRAMS,PACKAGES): where a program is missing, install the packages that bring it, as root on Debian.
define debian
	@for tool in $(1); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	  if $(APT_POSSIBLE); then \
	    $(APT_INSTALL) $(2) >/dev/null; \
	  else echo "error: missing$$missing: as root on Debian, apt-get install $(2)"; exit 2; fi; \
	fi
endef

DEVICE_PACKAGES := adb qemu-user mmdebstrap gcc-aarch64-linux-gnu g++-aarch64-linux-gnu g++ cmake npm iproute2
DEVICE_PROGRAMS := adb qemu-aarch64 mmdebstrap aarch64-linux-gnu-gcc aarch64-linux-gnu-g++ g++ cmake npm ss
APP_PACKAGES := default-jdk-headless npm gcc aapt zipalign apksigner android-framework-res dexdump swiftlang
APP_PROGRAMS := javac npm gcc aapt2 zipalign apksigner dexdump swift

tools:
	$(call debian,$(DEVICE_PROGRAMS) $(APP_PROGRAMS),$(DEVICE_PACKAGES) $(APP_PACKAGES))

test-devices: $(READY) tools  ## two emulated arm64 phones over adb, and the native runner; installs its tools as root on Debian
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "devices and not full" tests/benchmarks

test-apps: test-android test-ios  ## the engines of both demo apps, and the APK; installs its tools as root on Debian

test-android test-ios: test-%: $(READY) tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "apps and not full" tests/$*_demo

test-gpu: $(READY)  ## the trainings and the evaluation on a GPU, against the CPU; skipped, and said so, where there is none
	$(BIN)/python -m pytest -m gpu tests/training tests/miniature

test-full: $(READY) tools  ## full sizes within their time and memory, builds from nothing, reproducibility, mutants of the apps
	$(BIN)/python -m pytest -m full

clean:
	rm -rf $(VENV) build
