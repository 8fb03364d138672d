"""The pages of a run and of the ablations, made from a small store and untrained localizers."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ablations.figure_5.page import guidance_page, most_disputed
from cace.data.annotations import Annotations, Row
from cace.evaluation.error_kinds import KINDS
from cace.evaluation.metrics import Scores
from cace.evaluation.predict import attend, load_for
from cace.evaluation.protocols import evaluate_runs
from cace.features.batches import UNIMODAL, Split
from cace.features.store import FeatureStore
from cace.localizers.parts import checkpoints
from cace.media.store import ClipStore
from cace.report.curves import chart
from cace.report.run import MEANING, confusion_counts, extremes, most, run_page
from cace.report.timelines import show_clips
from cace.settings import changed, load_params
from cace.training.runs import jobs_of
from tests.project import ROOT
from tests.stores import write_feature_store
from tests.trained import CPU, NAME, SETTINGS, untrained

ATTACKS = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "' onmouseover='alert(3)' {{ 7 * 7 }} &lt;",
)
PLAIN = ("Bark", "Flute", "Truck")


class Pictures(ClipStore):
    """Frames without a decoded store: as many as there are half seconds."""

    def __init__(self):
        self.fps = 2

    def frames(self, id_, which=None):
        shades = np.zeros((20, 32, 32, 3), np.uint8)
        shades[:] = 12 * np.arange(20)[:, None, None, None]
        return shades[list(which)]


class Made:
    """A store, untrained localizers of two seeds and the two baselines, and curves."""

    def __init__(self, folder, categories, prefix="", method=NAME, settings=SETTINGS):
        rows = [
            Row(f"{prefix}{split}{k}", k % 3, k % 6, k % 6 + 4, split)
            for split, count in (("train", 3), ("val", 3), ("test", 8))
            for k in range(count)
        ]
        data = Annotations(categories, tuple(rows))
        store = FeatureStore(write_feature_store(folder / "features.h5", data))
        self.test = Split(store, "test", CPU)
        self.models, self.metrics = folder / "models", folder / "metrics"
        torch.manual_seed(0)
        checkpoint = folder / "untrained.pt"
        localizer = untrained(store, name=method, settings=settings)
        checkpoints.save(checkpoint, method, localizer, {})
        for name in ("seed-0", "seed-1", *UNIMODAL):
            (self.models / name).mkdir(parents=True)
            for file in ("best.pt", "best_on_test.pt"):
                (self.models / name / file).hardlink_to(checkpoint)
        for seed in (0, 1):
            curve = {name: [2.0, 1.5, 1.0] for name in ("loss", "relevance", "category", "gate")}
            curve |= {"class_activation": [1, 1, 1], "contrast": [0, 1, 1]}
            self.write(f"curves/seed-{seed}.csv", {**curve, "val_accuracy": [0.25, 0.75, 0.5]})
            self.write(f"test_curves/seed-{seed}.csv", {"test_accuracy": [0.1, 0.2, 0.625]})
        self.write("finetune.csv", {"recall_at_1": [0.1, 0.2], "recall_at_5": [0.5, 0.6]})
        self.result = evaluate_runs(
            store,
            self.models,
            method,
            supervision="full",
            threshold=0.5,
            boundary=1,
            device=CPU,
        )

    def write(self, name, columns):
        path = self.metrics / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(columns).to_csv(path, index=False)

    def page(self, clips=None, **changes):
        params = changed(load_params(ROOT), changes, where="test")
        folders = {"models": self.models, "metrics": self.metrics}
        return run_page(params, self.result, self.test, clips=clips, **folders)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made"), PLAIN)


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(made.page(Pictures()))
    return path


class Elements(HTMLParser):
    """All start tags with their attributes, and all text, of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def leaves(value, name=""):
    if not isinstance(value, dict):
        return {name: value}
    return {
        k: v for key in value for k, v in leaves(value[key], f"{name}.{key}".strip(".")).items()
    }


def test_the_page_holds_all_results_under_their_names(made, page):
    text = Elements(page.read_text()).text
    for name, value in leaves(made.result.metrics).items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        assert re.search(rf"\s{re.escape(name)}\s*{shown}\s", text), name


def test_every_score_is_explained():
    assert set(MEANING) == set(Scores._fields)


def test_both_protocols_name_their_epoch(page):
    text = Elements(page.read_text()).text
    chosen = "honest, epoch 1 (75.0 % on val); best on test, epoch 2 (62.5 % on test)"
    assert text.count(chosen) == 2  # one a seed


def test_the_page_holds_the_settings(made):
    text = Elements(made.page(bece={"lambda": 0.123})).text
    assert re.search(r"lambda\s*0\.123\s", text)


def test_the_page_is_the_same_wherever_it_was_computed(made):
    assert made.page(compute={"engine": "ray"}) == made.page(compute={"engine": "local"})


def test_the_page_needs_nothing_beside_it(page):
    for tag, attributes in Elements(page.read_text()).tags:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href"):
            assert re.match("data:|#|$", attributes.get(name) or ""), attributes


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A page whose category names, ids and settings try to become markup."""
    folder = tmp_path_factory.mktemp("attacked")
    changes = {"data": {"source": "mini", "path": ATTACKS[0], "archive": None}}
    path = folder / "report.html"
    path.write_text(Made(folder, ATTACKS, prefix=ATTACKS[1]).page(Pictures(), **changes))
    return path


def test_names_and_ids_cannot_become_markup(attacked):
    page = Elements(attacked.read_text())
    kinds = {(tag, *attributes) for tag, attributes in page.tags}
    assert not {"script", "onerror", "onmouseover"} & {name for kind in kinds for name in kind}
    for text in (*ATTACKS, f"{ATTACKS[1]}test0"):
        assert text in page.text


def test_names_and_ids_cannot_run_in_a_browser(attacked, visit):
    opened = visit(attacked)
    assert opened.evaluate("document.scripts.length") == 0
    assert opened.evaluate("[...document.images].every((image) => image.naturalWidth)")
    assert opened.locator("caption", has_text=ATTACKS[0]).count()


def test_a_phone_scrolls_tables_and_not_the_page(page, visit):
    for width in (390, 1280):
        opened = visit(page, width)
        assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_maps_can_be_switched_off_with_the_keyboard(page, visit):
    opened = visit(page)
    opened.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    veils = opened.locator(".veil")
    assert all(veils.nth(k).is_visible() for k in range(veils.count()))
    opened.get_by_label("Show where sound made the model look").focus()
    opened.keyboard.press("Space")
    assert not any(veils.nth(k).is_visible() for k in range(veils.count()))
    assert opened.locator(".frame img").first.is_visible()


def test_what_scrolls_sideways_can_be_reached_with_the_keyboard(page, visit):
    wide = visit(page, 390).locator(".wide")
    for k in range(wide.count()):
        assert wide.nth(k).get_attribute("tabindex") == "0"
        assert wide.nth(k).get_attribute("aria-label")


def test_many_large_frames_stay_under_3_mb(made):
    class Large(Pictures):
        def frames(self, id_, which=None):
            return np.random.default_rng(0).integers(0, 256, (10, 360, 480, 3), np.uint8)

    assert len(made.page(Large())) < 3e6


def test_without_pictures_the_timelines_stand_alone(made):
    page = Elements(made.page(clips=None))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "only the timelines are shown" in page.text
    assert page.text.count("relevance, %") == 2 * (8 + 4 * 2)  # seeds; clips, and of each kind


def test_each_kind_of_error_has_its_share_and_two_clips_with_it(made):
    text = Elements(made.page(clips=None)).text
    test, errors = made.result.metrics["test"], made.result.metrics["errors"]
    assert test["accuracy"] + sum(errors.values()) == pytest.approx(1)
    for name, share in errors.items():
        without = f"{100 * (test['accuracy'] + share):.1f}"
        row = rf"{name.replace('_', ' ')}{KINDS[name]}\s*{100 * share:.1f}{without}\s"
        assert re.search(row, text), name
        counts = made.result.analysis.errors[name]
        assert sorted(counts[most(counts)]) == sorted(counts)[-2:]


def test_a_kind_without_an_error_has_no_clips():
    assert most(np.array([0, 3, 0])) == [1]


def test_a_source_of_features_has_no_fine_tuning_and_fewer_settings(made, tmp_path):
    metrics = tmp_path / "metrics"
    shutil.copytree(made.metrics, metrics)
    (metrics / "finetune.csv").write_text("epoch,loss,recall_at_1,recall_at_5\n")
    passed = dict.fromkeys(("download", "decode", "encoders", "finetune", "extract"))
    params = load_params(ROOT).model_copy(update=passed)
    page = run_page(params, made.result, made.test, models=made.models, metrics=metrics, clips=None)
    text = Elements(page).text
    assert "recall at 5" not in text
    assert text.count("nothing to set") == 5


def predictions(*clips, seed=0):
    """A table from clips given as (id, actual, predicted), ten letters each: b is background."""
    names = {"b": "background", "f": "Flute", "t": "Truck"}
    return pd.DataFrame(
        [
            {"seed": seed, "id": id_, "actual": names[is_], "predicted": names[label]}
            for id_, actual, predicted in clips
            for is_, label in zip(actual, predicted, strict=True)
        ]
    ).assign(relevance=0.5)


def test_extremes_count_over_seeds_and_put_equals_in_the_order_of_ids():
    def clips(*right):  # how many of its ten segments are right
        return [
            (id_, 10 * "f", n * "f" + (10 - n) * "b") for id_, n in zip("dcba", right, strict=True)
        ]

    table = pd.concat(
        [predictions(*clips(9, 2, 10, 9), seed=0), predictions(*clips(1, 2, 10, 1), seed=1)]
    )
    found = extremes(table)
    # Of 20: d 10, c 4, b 20, a 10.
    assert found == ([1, 3], [2, 0])


def test_the_only_clip_is_most_right():
    assert extremes(predictions(("a", 10 * "f", 10 * "b"))) == ([], [0])


def test_confusion_counts_what_segments_are_by_what_they_were_called():
    table = predictions(("a", "fffffttttb", "fffttttttf"))
    counts = confusion_counts(table, ["Flute", "Truck", "background"])
    assert counts.tolist() == [[3, 2, 0], [0, 4, 0], [1, 0, 0]]


def test_a_timeline_joins_seconds_with_one_label():
    tables = {"one": predictions(("x", 10 * "b", 10 * "b"), ("a", "bbffffffbb", "bbbfffttbb"))}
    (clip,) = show_clips([1], tables, {}, None)
    assert (clip.id, clip.category) == ("a", "Flute")
    assert clip.truth == [("background", 2, True), ("Flute", 6, True), ("background", 2, True)]
    (track,) = clip.tracks
    assert track.right == 7
    assert track.stretches == [
        ("background", 2, True), ("background", 1, False), ("Flute", 3, True),
        ("Truck", 2, False), ("background", 2, True),
    ]  # fmt: skip


def test_a_map_is_clear_where_the_model_looked_most_and_names_the_place(tmp_path):
    attention = np.full((1, 10, 2, 3), 0.1, np.float32)
    attention[0, :, 1, 2] = 0.5
    tables = {"one": predictions(("a", 10 * "f", 10 * "f"))}
    (clip,) = show_clips([0], tables, {"one": attention}, Pictures())
    look = clip.tracks[0].looks[0]
    assert look.description == "looks most at the bottom right, 3.0 times the average"
    assert (round(look.x, 1), look.y) == (83.3, 75.0)
    veil = np.asarray(Image.open(io.BytesIO(base64.b64decode(look.veil.partition(",")[2]))))
    # 0.75 of black at most; 0.1 is a fifth of the peak.
    assert veil[..., 3].tolist() == [[153, 153, 153], [153, 153, 0]]


def test_a_clip_shows_the_middle_frame_of_each_second():
    (clip,) = show_clips([0], {"one": predictions(("a", 10 * "f", 10 * "f"))}, {}, Pictures())
    assert len(clip.frames) == 10
    shades = [
        int(np.asarray(Image.open(io.BytesIO(base64.b64decode(frame.partition(",")[2])))).mean())
        for frame in clip.frames
    ]
    assert shades == [12 * (2 * second + 1) for second in range(10)]


def test_attention_is_that_of_the_samples_asked_for(made):
    localizer = load_for(made.test, made.models / "seed-0/best.pt")
    found = attend(localizer, made.test, [4, 1])
    for maps, place in zip(found, (4, 1), strict=True):
        alone = attend(localizer, made.test, [place])
        np.testing.assert_allclose(maps, alone[0], rtol=1e-5)
    assert found.shape == (2, 10, 2, 2)
    np.testing.assert_allclose(found.sum(axis=(2, 3)), 1, rtol=1e-5)


def test_a_chart_goes_from_zero_to_a_round_number():
    drawn = chart("x", {"loss": [6.6, 0.0]})
    assert [tick.text for tick in drawn.y_ticks] == ["0", "2", "4", "6", "8"]
    (line,) = drawn.lines
    # The plot is 192 high and ends at 204: 6.6 of 8 lies 158.4 above.
    assert line.points == ((44, 45.6), (282, 204))


def test_a_chart_of_one_epoch_is_a_point():
    (line,) = chart("x", {"loss": [1.0]}).lines
    assert line.points == ((44, 12),)


def test_names_of_lines_that_end_together_do_not_overlap():
    lines = chart(
        "x", {name: [1.0, value] for name, value in zip("abcd", (0, 0.01, 1, 0), strict=True)}
    ).lines
    heights = sorted(line.name_y for line in lines)
    assert min(np.diff(heights)) >= 14
    assert heights[-1] <= 204


def test_the_most_disputed_clips_come_first():
    one = predictions(
        ("c", 10 * "f", 10 * "f"), ("b", 10 * "f", 10 * "f"), ("a", 10 * "f", 10 * "f")
    )
    two = predictions(
        ("c", 10 * "f", "tbffffffff"), ("b", 10 * "f", 10 * "f"), ("a", 10 * "f", "bffffffffb")
    )
    assert most_disputed({"one": one, "two": two}) == [2, 0, 1]


def test_guidance_is_side_by_side_with_maps_if_there_are_some(made, tmp_path, visit):
    tables = {
        "none": predictions(("a", 10 * "f", 10 * "b")),
        "audio": predictions(("a", 10 * "f", "ffffffbbbb")),
    }
    maps = {"none": None, "audio": np.full((1, 10, 2, 2), 0.25, np.float32)}
    clips = show_clips([0], tables, maps, Pictures())
    path = tmp_path / "figure_5.html"
    path.write_text(guidance_page("mini", tables, clips, threshold=0.5))
    opened = visit(path, 390)
    text = opened.locator("main").inner_text()
    assert "none: right in 0 of 10 seconds" in text and "audio: right in 6 of 10 seconds" in text
    assert opened.locator(".frame").count() == 20
    assert opened.locator(".veil").count() == 10


def test_a_method_of_one_modality_has_no_one_modality_baselines(tmp_path):
    made = Made(tmp_path, PLAIN, method="audio", settings={"width": 8})
    assert set(made.result.metrics["baselines"]) == {"always_background", "never_background"}
    text = Elements(made.page(localizer={"name": "audio"})).text
    assert "the localizer on sound only" not in text
    assert "Audio on mini" in text
    jobs = jobs_of(changed(load_params(ROOT), {"localizer": {"name": "audio"}}, ""), unimodal=True)
    assert [job.name for job in jobs] == ["seed-0", "seed-1", "seed-2"]


def test_the_page_of_a_reconstruction_calls_it_one(made, tmp_path):
    other = Made(tmp_path, PLAIN, method="css", settings={"width": 8})
    text = Elements(other.page(localizer={"name": "css"})).text
    assert "CSS-Net is a reconstruction from its paper: both attentions" in text
    assert "reconstruction" not in Elements(made.page()).text
