# Two commands do everything, set-up included: `make course` and `make test`. `make help` lists the rest.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SITE_INSTALLED := $(VENV)/.installed-site
SITE := build/site
# Every file that pip fetches is compared with its hash: notebooks/dependencies.md says how, and why it takes two steps.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
HASHED := --no-require-hashes -c .ci/hashes.txt --build-constraint .ci/hashes.txt

.DEFAULT_GOAL := help
.PHONY: help course learn test test-portable lint bench site site-test clean

help:
	@echo "make learn    your own copies of the chapters, without solutions, in my-course; opens JupyterLab (ARGS='01')"
	@echo "make course   run every chapter (ARGS='01 --profile full' for other runs); executed notebooks in build/course"
	@echo "make test     lint, unit tests, and every notebook against its committed output"
	@echo "make test-portable   what computes, under the instruction sets of other processors"
	@echo "make lint     ruff and codespell alone"
	@echo "make bench    measure the library beside its peers (ARGS='surgery onnx' for some tables); kept in notebooks/benchmarks.md"
	@echo "make site     the web site, in $(SITE); make site-test looks at it in Chromium"
	@echo "make clean    remove .venv, build and caches"
	@echo "Set-up is part of each. Another interpreter: make course PYTHON=python3.12"

learn: $(INSTALLED)
	$(BIN)/course learn $(ARGS)

course: $(INSTALLED)
	$(BIN)/course run $(ARGS)

# Two files at a time, on one thread each: networks this small leave a second thread waiting for the first. The longest
# files begin first, or the last of them would run alone.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -p tests.notebooks.nbval_plugin --nbval-lax \
		--nbval-current-env --nbval-sanitize-with=tests/notebooks/nbval_sanitize.cfg \
		tests/book/classroom notebooks tests/book/run tests $(ARGS)

# Other processors: what computes, with the instructions that older ones have, on one thread and on two. The variables are
# those that oneDNN, PyTorch and MKL read. NUMBERS='...' and CHAPTERS='...' choose a part.
NUMBERS = tests/quantization tests/distillation tests/pruning tests/models tests/experiments tests/checks \
	tests/test_training.py tests/test_cost.py tests/test_factorization.py tests/test_hashing.py tests/test_checkpoints.py
CHAPTERS =
SSE41 := ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
test-portable: $(INSTALLED)
	$(SSE41) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -k 'not bad_input' $(NUMBERS) $(ARGS)
	$(AVX2) OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -k 'not bad_input' $(NUMBERS) $(ARGS)
	$(SSE41) $(BIN)/course run --out build/sse41 $(CHAPTERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

bench: $(INSTALLED)
	TQDM_DISABLE=1 $(BIN)/python -m tests.benchmarks $(ARGS)

site: $(SITE_INSTALLED)
	rm -rf $(SITE) $(SITE).doctrees
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d $(SITE).doctrees notebooks $(SITE)
	$(BIN)/python -m course_lib.book.site.check $(SITE)

site-test: site
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -y -q chromium; } || \
		{ echo "The site is tested in Debian's chromium. It is not here, and apt-get could not install it (are you root?)."; exit 1; }
	COURSE_SITE=$(SITE) $(BIN)/python -m pytest tests/book/site \
		'tests/test_docstrings.py::test_the_examples_run[course_lib.book.site.extension]' $(ARGS)

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find course_lib tests notebooks -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml .ci/hashes.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "There is no $(PYTHON) here. Install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$$($(PYTHON) --version) is $(PYTHON); the course needs Python 3.11, 3.12 or 3.13. Name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes some minutes, PyTorch is large."
	$(PIP) --require-hashes -r .ci/pip.txt
	$(PIP) $(HASHED) -e '.[learn,pretrained,deploy,cluster,classroom,test]'
	@touch $@

# Apart from the rest, so that the two commands do not wait for it.
$(SITE_INSTALLED): $(INSTALLED)
	$(PIP) $(HASHED) -e '.[site]'
	@touch $@
