# Two commands set up everything on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test coverage test-avx2 test-slow test-hub-oldest lint cards leaderboard docs pictures bench-coin bench-ebm bench-unet bench-vae clean-build

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,kornia]' --group dev
	touch $(READY)

demo: $(READY)  ## poison handwritten digits, purify them, train on each, print the table, write the report
	$(BIN)/puretransforms demo --out demo-out

test: $(READY)  ## the whole quick suite
	$(PYTEST) -n 2

coverage: $(READY)  ## the same, and which lines it reaches; takes several times as long
	$(PYTEST) -n 2 --cov --cov-report=term

test-avx2: $(READY)  ## the tests that train, as on a CPU without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -n 2 tests/models tests/train tests/poisons/availability/test_em.py \
		tests/poisons/availability/test_tap.py tests/poisons/availability/test_rem.py \
		tests/poisons/targeted/test_bullseye_polytope.py

test-slow: $(READY)  ## what takes minutes
	$(PYTEST) -m slow

test-hub-oldest: $(READY)  ## the Hub tests with the oldest supported client laid over the newest
	$(BIN)/python -m pip install --quiet --target build/hub-1.33 'huggingface_hub==1.33.*'
	PYTHONPATH=build/hub-1.33 $(BIN)/python -c "import huggingface_hub as hub; print('huggingface_hub', hub.__version__)"
	PYTHONPATH=build/hub-1.33 $(PYTEST) tests/hub tests/transforms/test_pretrained.py

lint: $(READY)  ## style, types, import layers, security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive puretransforms

cards: $(READY)  ## README.md of every weights folder, from its meta.json
	$(BIN)/python -c "from puretransforms.hub.weights import write_cards; print(*write_cards(), sep='\n')"

leaderboard: $(READY)  ## tables of README.md and docs/leaderboard.md, and the page beside it, from leaderboard/*.json
	$(BIN)/python -c "from puretransforms.benchmark.leaderboard import write_tables; print(*write_tables('.'), sep='\n')"

docs: $(READY)  ## the documentation site, in site/; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs site

pictures: $(READY)  ## the pictures of the site, and the figures of the two galleries
	$(BIN)/python docs/make_pictures.py

bench-ebm: $(READY)  ## speed of EBMPurify beside a plain Langevin loop; writes docs/results/ebm-speed.json
	$(BIN)/python experiments/ebm_speed.py --out docs/results/ebm-speed.json

bench-vae: $(READY)  ## speed of fitting and purifying with VAEPurify beside the released layout; writes docs/results/vae-speed.json
	$(BIN)/python experiments/vae_speed.py --out docs/results/vae-speed.json

bench-unet: $(READY)  ## speed of UNetPurify beside the other purifiers; writes docs/results/unet-speed.json
	$(BIN)/python experiments/unet_speed.py --out docs/results/unet-speed.json

bench-coin: $(READY)  ## speed of COINInterpolate beside what else there is; writes docs/results/coin-speed.json
	$(BIN)/python experiments/coin_speed.py --out docs/results/coin-speed.json

clean-build:
	rm -rf build dist site demo-out
