"""How benchmarks report: each figure at once, kept when they are stopped, within their time."""

import ast
import inspect
import json
import signal
import subprocess
import sys

import pytest

from benchmarks import ave_like, measuring
from benchmarks.measuring import LIMIT_SECONDS, Report, in_turns, read_results
from cace.localizers import localizer_class
from tests.project import ROOT


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(measuring.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def report(clock, tmp_path):
    return Report("some", "What is measured.\n\nHow.", tmp_path / "results.json")


def rounds_of(report, clock, seconds, asked=None, **share):
    count = 0
    for count in report.rounds(asked, **share):  # noqa: B007
        clock[0] += seconds
    return count


def test_a_benchmark_says_first_what_it_measures(tmp_path, capsys):
    Report("some", "What is measured.\n\nHow.", tmp_path / "results.json")
    assert capsys.readouterr().out == "some: What is measured.\n"


def test_a_figure_is_printed_and_kept_at_once(report, capsys):
    report.add("a step", "CPU s", 1.0, 4.0, "at most 0.5")
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed == "  a step: 1 CPU s, compared with 4: ratio 0.25 (goal: at most 0.5)"
    (figure,) = read_results(report.results)["some"]["figures"]
    assert figure == {
        "what": "a step", "ours": 1.0, "theirs": 4.0, "ratio": 0.25, "unit": "CPU s",
        "bar": "at most 0.5",
    }  # fmt: skip


def test_a_figure_of_another_round_replaces_that_of_the_first(report):
    for value in (3.0, 2.0):
        report.add("a step", "CPU s", value)
    (figure,) = read_results(report.results)["some"]["figures"]
    assert figure["ours"] == 2.0


def test_a_figure_that_did_not_change_is_printed_once(report, capsys):
    for value in (3.0, 3.0, 2.0):
        report.add("a step", "CPU s", value)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_results_of_other_benchmarks_stay(report):
    report.results.write_text(json.dumps({"other": {"figures": []}, "some": {"figures": ["old"]}}))
    report.add("a step", "CPU s", 1.0)
    kept = read_results(report.results)
    assert kept["other"] == {"figures": []}
    assert [figure["what"] for figure in kept["some"]["figures"]] == ["a step"]


def test_rounds_end_before_the_limit(report, clock):
    assert rounds_of(report, clock, 50.0) == 3  # a fourth would end after 200 s
    assert clock[0] <= LIMIT_SECONDS


def test_a_round_that_takes_longer_than_the_limit_is_the_only_one(report, clock):
    assert rounds_of(report, clock, 1000.0) == 1


def test_more_rounds_are_made_if_they_are_asked_for(report, clock):
    assert rounds_of(report, clock, 1000.0, asked=7) == 7


def test_parts_of_a_benchmark_share_its_time(report, clock):
    for place in range(3):
        assert rounds_of(report, clock, 20.0, share=1 / (3 - place)) == 3
    assert clock[0] == LIMIT_SECONDS


def test_jobs_take_turns_and_their_medians_are_known_after_each_round(report):
    order, values = [], iter([3.0, 10.0, 1.0, 20.0, 2.0, 60.0])

    def job(name):
        def run():
            order.append(name)
            return {"cpu": next(values)}

        return run

    jobs = {name: job(name) for name in "ab"}
    medians = [[one["cpu"] for one in found] for found in in_turns(jobs, range(3), report)]
    assert order == list("ababab")
    assert medians == [[3.0, 10.0], [2.0, 15.0], [2.0, 20.0]]


STOPPED = """
import sys, time
from pathlib import Path
from benchmarks.measuring import Report
report = Report("some", "What is measured.", Path(sys.argv[1]))
report.add("first", "s", 1.0)
report.progress("second")
time.sleep(60)
"""


def test_what_is_known_when_a_benchmark_is_stopped_is_kept(tmp_path):
    results = tmp_path / "results.json"
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, results], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr.readline().endswith("  second\n")
        process.send_signal(signal.SIGINT)
    (figure,) = read_results(results)["some"]["figures"]
    assert figure["what"] == "first"


@pytest.mark.parametrize(
    "file", sorted((ROOT / "benchmarks").glob("[a-z]*.py")), ids=lambda file: file.stem
)
def test_every_benchmark_reports_what_it_measures_in_this_way(file):
    source = file.read_text()
    if file.stem != "measuring":
        assert f'Report("{file.stem}", __doc__)' in source
        first = ast.get_docstring(ast.parse(source)).splitlines()[0]
        assert first.endswith(".")


def test_methods_on_drawn_features_have_their_published_width():
    changes = {"train": {"epochs": 20}, "supervision": "full", "weak": {}}
    for name in ave_like.METHODS:
        params = ave_like.settings(name, changes)
        assert params.train.epochs == 20
        published = inspect.signature(localizer_class(params.localizer.name)).parameters["width"]
        assert params.method["width"] == published.default
