"""`cace compare`, in a small repository whose predictions are made up."""

import json
import re
import resource
import shutil
import sys

import pytest

from cace.cli import main
from cace.evaluation import prediction_files
from tests.comparisons import table
from tests.project import ROOT, Project

# A pipeline of which DVC has only recorded the result.
PIPELINE = """\
stages:
  evaluate:
    cmd: 'true'
    outs:
    - data/predictions
    - metrics/predictions.csv: {cache: false}
"""
SEGMENTS = "seed,id,segment,actual,predicted,relevance,category,confidence"
WORSE, BETTER = table((0, 1), right=0.6, luck=1), table((0, 1), right=0.9, luck=2)


def segment_table(text):
    """The form that older commits have."""
    saved, rows = prediction_files.read(text, ""), [SEGMENTS]
    names = (*saved.categories, "background")
    for seed, labels in saved.labels.items():
        for clip, id_ in enumerate(saved.ids):
            for k, (true, found) in enumerate(zip(saved.actual[clip], labels[clip], strict=True)):
                category = names[saved.clip_category[seed][clip]]
                rows.append(f"{seed},{id_},{k},{names[true]},{names[found]},0.5,{category},0.5")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Branches main and better; `large` and `older`, with predictions in the cache; `empty`.

    Also an experiment, lucky, and a cell of a table on main. main is checked out.
    """
    from dvc.repo import Repo

    made = Project(tmp_path_factory.mktemp("repository"))  # it exists: nothing is copied
    folder, git = made.folder, made.folder / "metrics/predictions.csv"
    cached = folder / "data/predictions"
    made.run("git", "init", "-q", "-b", "main")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in made.environment.items():
            patch.setenv(name, value)
        dvc = Repo.init()

        def commit(branch, record=True):
            made.run("git", "checkout", "-q", "-b", branch)
            if record:
                dvc.commit(force=True)
            made.commit(branch)

        made.commit("nothing yet")
        made.run("git", "branch", "empty")
        for name in ("profiles", "baselines/settings"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("params.yaml", ".gitignore"):
            shutil.copyfile(ROOT / name, folder / name)
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "metrics/baselines/predictions").mkdir(parents=True)
        (folder / "metrics/baselines/predictions/css.csv").write_text(BETTER)
        cached.mkdir(parents=True)
        (cached / "predictions.csv").write_text(BETTER)
        git.write_text(prediction_files.HEADER)
        commit("large")
        git.unlink()
        (cached / "predictions.csv").unlink()
        (cached / "test.csv").write_text(segment_table(BETTER))
        (folder / "dvc.yaml").write_text(PIPELINE[: PIPELINE.index("    - metrics")])
        commit("older")
        made.run("git", "checkout", "-q", "large")
        git.write_text(BETTER)
        settings = (folder / "params.yaml").read_text()
        changed = settings.replace("lambda: 0.6", "lambda: 0.2")
        (folder / "params.yaml").write_text(changed.replace("threshold: 0.5", "threshold: 0.6", 1))
        commit("better", record=False)
        made.run("git", "checkout", "-q", "main")
        made.run("git", "merge", "-q", "large")
        git.write_text(WORSE)
        made.commit("worse")
        git.write_text(BETTER)
        dvc.experiments.save(name="lucky", force=True)
        made.run("git", "checkout", "-q", "main", "--", ".")
        shutil.rmtree(cached)
        yield made


@pytest.fixture
def compare(repository, monkeypatch, capsys):
    """Runs the command in the repository; returns what it printed."""
    monkeypatch.chdir(repository.folder)

    def run(*arguments):
        main(["compare", *arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(compare):
    """The message of a comparison that fails."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            compare(*arguments)
        return str(caught.value)

    return run


def accuracy(text):
    """The share of right segments, counted from the table."""
    saved = prediction_files.read(text, "")
    return sum(float((one == saved.actual).mean()) for one in saved.labels.values()) / 2


def test_two_branches_are_compared_without_torch_in_seconds_and_in_peace(repository, tmp_path):
    before = repository.run("git", "status", "--porcelain", "--ignored")
    code = (
        "import sys; from cace.cli import main; main(sys.argv[1:]);"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = repository.run(
        *(sys.executable, "-c", code, "compare", "main", "better", "--out", str(tmp_path / "out"))
    )
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 10
    assert "better compared with main" in printed
    assert repository.run("git", "status", "--porcelain", "--ignored") == before
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"compare.md", "compare.json", "compare.html"}


def test_the_numbers_are_those_of_the_tables(compare):
    found = json.loads(compare("main", "better", "--format", "json"))
    assert (found["clips"], found["seeds"]) == (24, [0, 1])
    ((pair),) = found["pairs"]
    measure = pair["measures"]["accuracy"]
    assert measure["a"]["mean"] == pytest.approx(accuracy(WORSE))
    assert measure["b"]["mean"] == pytest.approx(accuracy(BETTER))
    gain = accuracy(BETTER) - accuracy(WORSE)
    assert measure["difference"] == pytest.approx(gain)
    assert measure["low"] < gain < measure["high"]
    errors = [sum(shares[k] for shares in pair["errors"].values()) for k in (0, 1)]
    assert errors == [pytest.approx(1 - accuracy(WORSE)), pytest.approx(1 - accuracy(BETTER))]


def test_settings_and_another_threshold_are_named(compare):
    (pair,) = json.loads(compare("main", "better", "--format", "json"))["pairs"]
    assert pair["settings"] == [
        {"name": "bece.lambda", "a": 0.6, "b": 0.2},
        {"name": "evaluate.threshold", "a": 0.5, "b": 0.6},
    ]
    assert "The threshold θ differs: 0.5 in main, 0.6 in better." in pair["remarks"][0]


def test_a_file_has_no_known_settings(compare, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(BETTER)
    printed = compare("main", str(file))
    assert f"The settings of {file} are not known." in printed


@pytest.mark.parametrize(
    "name", ["workspace", "HEAD", "lucky", "baselines/css", "main:baselines/css", "large", "older"]
)
def test_a_run_has_many_kinds_of_names(compare, name):
    (pair,) = json.loads(compare("better", name, "--format", "json"))["pairs"]
    expected = WORSE if name in ("workspace", "HEAD") else BETTER
    assert pair["measures"]["accuracy"]["b"]["mean"] == pytest.approx(accuracy(expected))
    assert (pair["measures"]["accuracy"]["verdict"] == "equal") == (expected is BETTER)


def test_a_cell_has_the_settings_of_its_table(compare):
    (pair,) = json.loads(compare("main", "main:baselines/css", "--format", "json"))["pairs"]
    differing = {setting["name"]: (setting["a"], setting["b"]) for setting in pair["settings"]}
    assert differing["localizer.name"] == ("cace_net", "css")
    assert differing["css.contrast_weight"] == (None, 0.1)  # in baselines/settings/css.yaml
    assert differing["cace_net.width"][1] is None
    assert differing["train.learning_rate"][1] == 1e-3  # there too
    assert "few_clips.epochs" not in differing


def test_a_cell_of_weak_supervision_has_the_seeds_of_the_methods(repository, compare):
    folder = repository.folder / "metrics/weak/predictions"
    folder.mkdir(parents=True)
    (folder / "css.csv").write_text(BETTER)
    try:
        arguments = ("baselines/css", "weak/css", "--format", "json")
        (pair,) = json.loads(compare(*arguments))["pairs"]
    finally:
        shutil.rmtree(folder.parent)
    assert {setting["name"] for setting in pair["settings"]} == {"supervision"}


def test_several_runs_are_a_table_against_the_first(compare):
    printed = compare("main", "better", "lucky")
    rows = re.findall(r"^(main|better|lucky) +2 +(\S+)", printed, re.MULTILINE)
    assert [name for name, _ in rows] == ["main", "better", "lucky"]
    assert "one is expected to seem better or worse" in printed


def test_markdown_has_a_table_for_each_part(compare):
    printed = compare("main", "better", "--format", "markdown")
    assert "## better compared with main" in printed
    assert "| accuracy" in printed and "| bece.lambda" in printed


def test_a_timeline_is_a_letter_per_segment(compare, tmp_path):
    for name, predicted in (("a", "Bark*10"), ("b", ".*2;Bark*3;.*2;Flute*3")):
        row = f"0,clip,0,.*2;Bark*3;.*5,{predicted},Bark\n"
        other = "0,other,0,.*10,.*10,Bark\n"
        (tmp_path / f"{name}.csv").write_text(prediction_files.HEADER + row + other)
    printed = compare(str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert "clip: 3.0 -> 7.0 right segments (A Bark, B Flute)" in printed
    assert re.findall(r"^  \S+ +([AB.]{10})$", printed, re.MULTILINE) == [
        "..AAA.....",
        "AAAAAAAAAA",
        "..AAA..BBB",
    ]


# --- different data


@pytest.fixture
def own(repository, tmp_path):
    """Writes a file of predictions, and returns its path."""

    def write(text, name="own"):
        (tmp_path / f"{name}.csv").write_text(text)
        return str(tmp_path / f"{name}.csv")

    return write


def test_other_clips_are_refused_with_counts_and_compared_if_asked(compare, refused, own):
    lines = BETTER.splitlines()
    file = own("\n".join([lines[0], *lines[1:21], *lines[25:45]]))  # 20 clips of each seed
    assert "main has 24 clips" in (message := refused("main", file))
    assert "has 20 clips; in all: 20, with the same labels: 20" in message
    assert "--common" in message
    found = json.loads(compare("main", file, "--common", "--format", "json"))
    assert found["clips"] == 20
    assert found["remark"].startswith("Compared on 20 clips that all have: ")


def test_other_labels_are_refused_with_counts(compare, refused, own):
    first = BETTER.splitlines()[1].split(",")
    file = own(BETTER.replace(f",clip 0,0,{first[3]},", ",clip 0,0,.*10,"))
    assert "in all: 24, with the same labels: 23" in refused("main", file)
    assert json.loads(compare("main", file, "--common", "--format", "json"))["clips"] == 23


def test_nothing_in_common_is_refused_also_if_asked(refused, own):
    file = own(table((0, 1), ids="other {}"))
    assert "nothing to compare on" in refused("main", file, "--common")


def test_a_clip_of_two_rows_is_two(compare, own):
    rows = "0,x,0,.*10,.*10,Bark\n0,x,1,Bark*10,.*10,Bark\n"
    swapped = "0,x,1,Bark*10,Bark*10,Bark\n0,x,0,.*10,.*10,Bark\n"
    header = prediction_files.HEADER
    found = json.loads(
        compare(own(header + rows, "a"), own(header + swapped, "b"), "--format", "json")
    )
    (clip,) = found["pairs"][0]["clips"]
    assert (clip["id"], clip["row"], clip["right_a"], clip["right_b"]) == ("x", 1, 0, 10)


def test_a_category_that_only_one_run_predicts_does_not_shift_the_others(compare, own):
    *others, last = BETTER.splitlines()  # Aria is the first of the categories
    changed = re.sub(r"[^,]*,[^,]*$", "Aria*10,Aria", last)
    found = json.loads(compare("better", own("\n".join([*others, changed])), "--format", "json"))
    measure = found["pairs"][0]["measures"]["accuracy"]
    assert -10.1 / 480 < measure["difference"] < 0  # of 2 seeds, 24 clips and 10 segments


# --- what is said of special cases


def test_runs_that_are_identical_are_equal(compare):
    printed = compare("better", "lucky")
    assert "lucky and better are equal on every clip: the difference is 0, p = 1." in printed
    assert "No clip has more or fewer right segments." in printed


def test_another_number_of_seeds_is_compared_by_means_and_said(compare, own):
    printed = compare("main", own(table((0, 1, 2), right=0.9)))
    assert "main has 2 seeds and " in printed
    assert "3 seeds: they are compared by their means." in printed


def test_one_clip_has_no_interval(compare, own):
    files = [own(table(clips=1, right=right), f"{right}") for right in (0, 1)]
    printed = compare(*files)
    assert "One clip tells nothing about others: there is no interval." in printed
    assert re.search(r"^accuracy .* none +1 +cannot tell$", printed, re.MULTILINE)


def test_too_few_clips_to_tell_are_counted_in_words(compare, own):
    files = [own(table((0,), right=0.8, luck=luck), f"{luck}") for luck in (1, 5)]
    printed = compare(*files)
    assert re.search(
        r"points (better|worse) than \S+, −\d+\.\d to \d+\.\d: not enough clips to tell; some "
        r"[\d,]+ would be needed\.",
        printed,
    )
    assert "One seed each" in printed


REFUSED = {
    "empty": r"empty \(\w{7}\): metrics/predictions.csv: not there; run `dvc repro evaluate` at "
    r"that commit",
    "nothing": "'nothing': expected a branch, tag, commit, experiment",
    "nothing.csv": "nothing.csv: not there",
    "baselines/none": "'baselines/none': expected a branch, .* or a cell of a table",
    "main:baselines/none": r"main \(\w{7}\): metrics/baselines/predictions/none.csv: not there; "
    r"run `dvc repro baselines/dvc.yaml:train@none` at that commit",
    "main:metrics": "'main:metrics': expected REVISION:ablations/CELL",
    "main:metrics/predictions.csv": "'main:metrics/predictions.csv': expected REVISION:ablations/",
    "main:baselines/../css": "'main:baselines/../css': expected REVISION:ablations/CELL",
    "baselines/../predictions/css": "'baselines/../predictions/css': expected a branch",
    "matching/dam": "'matching/dam': a matcher predicts no labels of segments, so it cannot be",
    "main:matching/dam": "'main:matching/dam': a matcher predicts no labels of segments",
    "": "'': expected a branch",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_run_is_named(refused, name):
    assert re.match(f"error: {REFUSED[name]}", refused("main", name))


@pytest.mark.parametrize("name", ["large", "older"])
def test_predictions_that_are_not_in_the_cache_name_what_brings_them(
    refused, repository, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path))  # DVC knows nothing of the commit yet
    cache = repository.folder / ".dvc/cache/files"
    cache.rename(cache.with_name("elsewhere"))
    try:
        message = refused("main", name)
    finally:
        cache.with_name("elsewhere").rename(cache)
    assert re.match(rf"error: {name} \(\w{{7}}\): metrics/predictions.csv (is|contains) ", message)
    assert (
        "DVC's cache does not contain data/predictions; run `dvc pull data/predictions` at"
        in message
    )
    assert "or `dvc repro evaluate` to make it" in message


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda rows: [*rows, "0,clip"], "expected seed,id,segment"),
        (lambda rows: [*rows, *rows[1:11]], "expected all rows of a seed together"),
        (lambda rows: [row.replace("0,", 5_000 * "1" + ",", 1) for row in rows], "10 segments of"),
    ],
)
def test_a_damaged_file_of_older_commits_is_named(refused, own, damage, message):
    rows = segment_table(BETTER).splitlines()
    assert message in refused("main", own("\n".join(damage(rows))))


def test_a_damaged_file_is_named_with_its_line(refused, own):
    file = own(BETTER.replace("clip 3,0,", "clip 3,zero,", 1))
    assert f"error: {file}, line 5: expected seed,id,row" in refused("main", file)


def test_a_large_table_of_which_only_the_header_is_there_is_refused(refused, own):
    assert "contains only a header" in refused("main", own(prediction_files.HEADER))


def test_outside_of_a_project_files_can_be_compared_and_revisions_cannot(
    compare, refused, own, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    compare(own(WORSE, "a"), own(BETTER, "b"))
    assert "belong to a project" in refused("main", "better")


@pytest.mark.parametrize(
    "name, references, message",
    [
        ("v1", ["tags/v1 main", "heads/v1 better"], "name refs/tags/v1 or refs/heads/v1"),
        ("lucky", ["heads/lucky main"], "name refs/heads/lucky or refs/exps/"),
        ("baselines/css", ["heads/baselines/css main"], "name workspace:baselines/css or refs/he"),
        ("far", ["remotes/origin/far main"], "'far' is a branch of a remote; name origin/far"),
    ],
)
def test_a_name_of_several_runs_is_refused_with_their_full_names(
    refused, repository, name, references, message
):
    made = [reference.split() for reference in references]
    for reference, target in made:
        repository.run("git", "update-ref", f"refs/{reference}", target)
    try:
        assert message in refused("main", name)
    finally:
        for reference, _ in made:
            repository.run("git", "update-ref", "-d", f"refs/{reference}")


def test_a_shallow_clone_names_what_brings_older_commits(repository, tmp_path, monkeypatch):
    source = f"file://{repository.folder}"
    repository.run("git", "clone", "-q", "--depth", "1", source, str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(SystemExit, match="`git fetch --unshallow` brings older commits"):
        main(["compare", "main", "HEAD~1"])


STRANGE = {
    "no sections": "data: 3\nlocalizer: [a]\nevaluate: 3\ntrain: 3\n",
    "lists for values": "data: {source: [a]}\nlocalizer: {name: [a]}\nevaluate: {boundary: two}\n",
}


@pytest.mark.parametrize("name", STRANGE)
def test_settings_of_a_wrong_shape_are_shown_and_stop_nothing(repository, compare, name):
    params = repository.folder / "params.yaml"
    before = params.read_text()
    params.write_text(STRANGE[name])
    try:
        assert "Settings that differ" in compare("workspace", "better")
        assert "localizer" in compare("main", "baselines/css")
    finally:
        params.write_text(before)


def test_experiments_of_one_name_are_listed(refused, repository):
    for base in ("large", "older"):
        sha = repository.run("git", "rev-parse", base).strip()
        repository.run("git", "update-ref", f"refs/exps/{sha[:2]}/{sha[2:]}/twice", "better")
    assert re.search(
        r"'twice': 2 experiments have this name; name one of", refused("main", "twice")
    )


def test_the_page_needs_no_network_and_no_width(compare, tmp_path, visit):
    compare("main", "better", "lucky", "--out", str(tmp_path))
    page = visit(tmp_path / "compare.html", width=400)
    assert page.locator("table.clip").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
