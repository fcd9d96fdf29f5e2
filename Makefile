# `make run` and `make test` do all of their own set-up, in .venv. They need Python >= 3.11 with venv, and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.PHONY: run test check format install install-dev chromium constraints clean

run: install
	@$(BIN)/punchline run

test: install-dev chromium check
	$(BIN)/pytest -n 2

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

KERNELS := $(wildcard model_service/native/src/*)

$(VENV)/.installed: pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Punchline needs Python 3.11 or newer; set PYTHON=python3.x")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two, once) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[service]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[service,dev,eval]'
	@touch $@

# The browser test drives Debian's Chromium. Root on Debian gets it; others are told.
chromium:
ifeq ($(CHROMIUM),)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else echo "The tests need Chromium: install the package 'chromium' and run make test again." >&2; exit 1; fi
endif

constraints: install-dev
	@{ echo "# Every version that is tested together. Regenerate: make constraints"; \
	$(BIN)/pip list --format=freeze | grep -viE '^(pip|setuptools|punchline)==' | sed 's/+cpu$$//'; } > constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
