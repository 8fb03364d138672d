# Each target installs what it needs, once, into the virtual environment .venv.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Idle OpenMP threads sleep: spinning makes a shared machine several times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: repro plots pictures compare test test-ray test-slow bench lint clean
repro: .venv/.installed .dvc/offline.html  ## the main job: from video files to metrics
	dvc repro

plots: .dvc/offline.html  ## all plots in one page, dvc_plots/index.html
	dvc plots show

BASE ?= main
compare: .venv/.installed  ## of two commits: BASE=main against the workspace, into comparison/
	rm -rf comparison
	cace compare $(BASE) workspace --out comparison --format markdown
	cace plots --png comparison/plots --base $(BASE)
	(cat comparison/compare.md; cd comparison; find plots -name '*.png' | sort | sed 's/.*/\n![](.\/&)/') > comparison/comment.md

pictures: .venv/.installed  ## those of the README, from the last run
	python -m docs.pictures

test: .venv/.installed
	python -m pytest

test-ray: .venv/.installed  ## decode and extract on a Ray cluster of two nodes
	python -m pytest -m ray -n 0

test-slow: .venv/.installed  ## long trials: many kills, many clips
	python -m pytest -m slow

bench: .venv/.installed  ## speed, as ratios on this machine: a table and benchmarks/results.json
	python -m pip install --quiet -e '.[bench]'
	python -m benchmarks

lint: .venv/.installed
	ruff format --check .
	ruff check .
	mypy

clean:  ## removes what stages wrote, DVC's cache for all branches too; sources, settings, metrics, downloads and .venv stay
	rm -rf $(filter-out .work/downloads,$(wildcard .work/*)) data/media data/clips data/models data/features.h5 data/predictions data/ablations data/baselines data/weak data/matching .dvc/cache .dvc/tmp

.dvc/offline.html: .venv/.installed  # without it, DVC's page of plots needs a network
	cace plots

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --upgrade-strategy only-if-needed -e '.[dev]'
	touch $@
