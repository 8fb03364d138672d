"""A run's result in one sentence, with all that another must know to compare with it."""

from cace.comparison.measures import right_segments
from cace.comparison.sources import Run
from cace.comparison.statistics import Value
from cace.comparison.words import percent
from cace.evaluation.metrics import interval


def sentence(run: Run) -> str:
    """Such as `On the 48 test clips of mini, cace_net labels 90.0 % of the segments right ...`."""
    right = right_segments(run.saved) / run.saved.actual.shape[1]  # [seeds, clips]
    by_seed = right.mean(axis=1)
    seeds, clips = right.shape
    deviation = float(by_seed.std(ddof=1)) if seeds > 1 else None
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
        f"On the {clips} test clip{'s' if clips > 1 else ''}{f' of {source}' if source else ''}, "
        f"{method} labels {percent(Value(float(by_seed.mean()), deviation))} % of the segments "
        f"right ({'; '.join(details)})."
    )
