# What is up to date is not installed again: the stamp carries a checksum of all that the installation depends on.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,peers,distributed,lsun
PIP_FLAGS ?=
# For `make reproduce` and `make bench`, as in: make reproduce ARGS='hebbian --seed 1'
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell (cat settings.ini setup.py constraints.txt; echo '$(EXTRAS)') | cksum | cut -d' ' -f1)
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
export PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv reproduce bench test nbdev_export nbdev_clean nbdev_test pytest notebook docs report figure readme reference constraints clean

help:
	@echo 'make reproduce    install, then run the Hebbian experiments and draw every figure'
	@echo 'make bench        install, then time the package against formulas, other packages and the hardware (10 minutes)'
	@echo 'make test         nbdev_export, nbdev_clean, nbdev_test and pytest; each is also a target of its own'
	@echo 'make notebook     open Jupyter on the notebooks'
	@echo 'make docs         build and check the site: by Quarto, or plain pages by pandoc where there is none'
	@echo 'make report       judge the tables in reports/ anew and make the pages of the report from them/'
	@echo 'make figure       copy the start page'"'"'s figure of what make reproduce made into nbs/images'
	@echo 'make readme       write README.md from nbs/index.ipynb'
	@echo 'make reference    write the table of public names and the help of the commands into nbs/'
	@echo 'make constraints  write the installed set to constraints.txt'
	@echo 'make clean        remove builds and caches; .venv and runs stay'

venv: $(STAMP)

$(STAMP):
	@$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing the package and what it needs: 2 to 5 minutes and 6 GB, most of it torch.'
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installed-* && touch $@

reproduce: $(STAMP)
	$(BIN)/locallearning reproduce $(ARGS)

bench: $(STAMP)
	$(BIN)/locallearning bench $(ARGS)

test: $(STAMP)
	@for step in nbdev_export nbdev_clean nbdev_test pytest; do $(MAKE) --no-print-directory $$step || exit 1; done

nbdev_export nbdev_clean: $(STAMP)
	@echo '== $@'
	@$(BIN)/python tools/unchanged.py $(BIN)/$@

# One torch thread for each worker here and in pytest, so that workers times threads is the number of cores.
nbdev_test: $(STAMP)
	@echo '== $@'
	@runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && LOCALLEARNING_RUNS=$$runs OMP_NUM_THREADS=1 \
		$(BIN)/nbdev_test --n_workers $(WORKERS) --do_print --timing

pytest: $(STAMP)
	@echo '== $@'
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ -n $(WORKERS) --dist worksteal --durations=15

notebook: $(STAMP)
	$(BIN)/jupyter lab nbs

docs: $(STAMP)
	$(BIN)/python tools/docs.py

report: $(STAMP)
	$(BIN)/python tools/report.py

figure: $(STAMP)
	$(BIN)/python tools/figure.py

readme: $(STAMP)
	$(BIN)/python tools/readme.py

reference: $(STAMP)
	$(BIN)/python tools/reference.py

constraints: $(STAMP)
	$(BIN)/python tools/constraints.py

clean:
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .hypothesis
	find . -path './.*' -prune -o -name __pycache__ -type d -print | xargs rm -rf
