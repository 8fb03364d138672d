"""A run's result in one sentence, with all that another must know to compare with it."""

from cace.comparison.clips import counted_clips
from cace.comparison.measures import shares
from cace.comparison.sources import Run
from cace.comparison.statistics import over_seeds
from cace.comparison.words import percent
from cace.evaluation.metrics import interval


def sentence(run: Run) -> str:
    """Such as `On the 48 test clips of mini, cace_net labels 90.0 % of the segments right ...`."""
    right = shares(run.saved, "accuracy").contributions()
    seeds, clips = right.shape
    settings = run.settings or {}
    source, method = settings.get("data.source"), settings.get("localizer.name", run.name)
    low, high = interval(right.mean(axis=0))
    details = [
        "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds",
        "epoch chosen on val",
    ]
    if low is not None and high is not None:
        details.append(f"95 % bootstrap interval over clips {100 * low:.1f} to {100 * high:.1f} %")
    return (
        f"On the {counted_clips(clips, 'test ')}{f' of {source}' if source else ''}, "
        f"{method} labels {percent(*over_seeds(right))} % of the segments "
        f"right ({'; '.join(details)})."
    )
