"""Runs to compare, of which the truth is known."""

import numpy as np

from cace.comparison.measures import Shares
from cace.evaluation import prediction_files

NAMES = ("Bark", "Church bell", "Flute", "Horn")
EVENT = 10  # segments


def table(seeds=(0,), *, right=1.0, clips=24, luck=0, names=NAMES, ids="clip {}"):
    """A table of predictions as `evaluate` writes it; each seed calls some clips another category.

    right: the share of clips with the right category; the border of every fifth is wrong.
    """
    random, truth = np.random.default_rng(luck), np.random.default_rng(0)
    category = np.arange(clips) % len(names)
    actual = np.full((clips, EVENT), len(names))
    for clip, name in enumerate(category):
        start = truth.integers(0, 5)
        actual[clip, start : start + truth.integers(2, 6)] = name
    labels, categories = {}, {}
    for seed in seeds:
        wrong = random.random(clips) >= right
        categories[seed] = np.where(wrong, (category + 1) % len(names), category)
        labels[seed] = np.where(actual == len(names), actual, categories[seed][:, None])
        labels[seed][::5, 0] = categories[seed][::5]
    return prediction_files.write(
        names, [ids.format(clip) for clip in range(clips)], actual, labels, categories
    )


def saved(*arguments, **options):
    """The same, read."""
    return prediction_files.read(table(*arguments, **options), "a table")


def draw(random, *, clips, seeds, difference=0.0, between_seeds=0.0, blocks=10):
    """Right segments of two runs; B's mean over clips and seeds is larger by `difference`.

    Clips are of different difficulty, and run B has another gain on each. A seed has its own mean.
    blocks: segments that are right or wrong independently; with 1, the complete clip is.
    """
    difficulty = random.uniform(0.35, 0.65, clips)
    gain = difference + random.uniform(-0.15, 0.15, clips)
    runs = []
    for share, count in zip((difficulty - gain / 2, difficulty + gain / 2), seeds, strict=True):
        effect = random.normal(0, between_seeds, (count, 1))
        hits = random.binomial(blocks, share + effect) * (EVENT // blocks)
        runs.append(Shares(hits, np.full(hits.shape, EVENT)))
    return runs


def draw_f1(random, *, clips, seeds):
    """Parts of an F1 of two runs that are equally good: both twice, and found plus true."""
    true = random.integers(0, 11, clips)
    runs = []
    for count in seeds:
        found = random.binomial(true, 0.8, (count, clips))
        invented = random.binomial(10 - true, 0.2, (count, clips))
        runs.append(Shares(2 * found, found + invented + true))
    return runs
