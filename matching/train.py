"""DVC stage of matching: train one matcher over its seeds, and score it."""

import argparse
from pathlib import Path
from typing import Any

from cace import paths
from cace.matching.checkpoints import MATCHERS
from cace.matching.run import run_cell
from cace.matching.training import Schedule
from cace.settings import check_section, load_params
from cace.system.errors import run
from cace.system.files import read_text, read_yaml

SETTINGS = Path("matching/settings")


def main() -> None:
    """Writes the models, the scores and the chosen windows of one matcher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("matcher", choices=MATCHERS)
    name = parser.parse_args().matcher
    params = load_params()
    schedule = schedule_of(name, params.matching.few_clips)
    source, seeds = params.data.source, params.matching.seeds
    run_cell(name, paths.FEATURES, paths.MEDIA, source, schedule, seeds)


def schedule_of(name: str, few_clips: bool) -> Schedule:
    """How a matcher is trained.

    few_clips: whether the values for small data sets apply.
    Raises: UserError if its file has an error.
    """
    file = SETTINGS / f"{name}.yaml"
    values: dict[str, Any] = read_yaml(read_text(file), file)
    instead = values.pop("few_clips")
    return check_section(Schedule, {**values, **(instead if few_clips else {})}, str(file))


if __name__ == "__main__":
    run(main)
