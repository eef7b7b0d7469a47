# What a developer types. `make debug test` tests the checked build; ARGS go to what runs:
#     make test ARGS="tests/test_softmax.py -k axis"
PYTHON ?= python
C := $(shell find fastsoftmax tests bench -name '*.[ch]' ! -name _cpu.c -o -name '*.cu')

.PHONY: build debug test lint bench docs
build: # in place, and only what has changed
	$(PYTHON) setup.py -q egg_info build_ext --inplace

debug: export FASTSOFTMAX_DEBUG = 1
debug: build # -O1 -g, and undefined behaviour ends the process

test: build
	$(PYTHON) -m pytest $(ARGS)

lint:
	ruff check .
	ruff format --check .
	cython-lint fastsoftmax/*.pyx fastsoftmax/*.pxd fastsoftmax/*.pxi
	mypy
	basedpyright
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	clang-format --dry-run --Werror $(C)
	! grep -nE '^.{89}' $(C)

bench: build
	$(PYTHON) -m bench $(ARGS)

docs: build # every warning is an error
	$(PYTHON) -m sphinx -W --keep-going -q -b html docs build/docs
