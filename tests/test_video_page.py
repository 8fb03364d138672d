"""The page of a video, in a browser without a network."""

import base64
import io
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from cace.data.annotations import AVE_CATEGORIES
from cace.inference.exports import to_vtt
from cace.inference.page import video_page
from cace.inference.timeline import TimedEvent
from cace.media.video import probe
from tests.timelines import timeline
from tests.videos import read_counter, tone, write_video

LABELS = ".000..11.."  # Bark from 1 to 4, Flute from 6 to 8


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """10 s, 128 x 96; frame 0 is of one grey."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", sound=tone())


@pytest.fixture
def show(visit, video, tmp_path):
    """Writes the page of a timeline beside the video, and opens it once the video is there."""

    def show(labels=LABELS, *, name="clip.mp4", width=1280, truth=None, browser=None, **fields):
        shutil.copyfile(video, tmp_path / name)
        found = timeline(tmp_path / name, labels, **fields)
        path = tmp_path / "page.html"
        path.write_text(video_page(found, truth=truth), encoding="utf-8")
        page = visit(path, width, **(browser or {}))
        page.wait_for_function("video.readyState > 1")
        return page

    return show


def at(page) -> float:
    page.wait_for_function("!video.seeking")
    return page.evaluate("video.currentTime")


def slider(page):
    return page.get_by_role("slider", name="Position in the video")


def jump_to(page, seconds, length=10):
    box = slider(page).bounding_box()
    place = {"x": box["width"] * seconds / length, "y": box["height"] / 2}
    slider(page).click(position=place)


def grid_on_screen(page) -> np.ndarray:
    """Brightness of what is shown in each cell of a grid of 4 x 4 over the centre square."""
    page.wait_for_function("!video.seeking")
    page.wait_for_timeout(200)  # until it is painted
    stage = page.locator("video")
    image = np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("L"), float)
    height, width = image.shape
    side = min(height, width * 96 / 128)
    top, left = (height - side) / 2, (width - side) / 2
    edges = [np.round(corner + side * np.arange(5) / 4).astype(int) for corner in (top, left)]
    spans = [[slice(a + 2, b - 2) for a, b in pairwise(along)] for along in edges]
    return np.array([[image[rows, columns].mean() for columns in spans[1]] for rows in spans[0]])


def test_the_answer_is_a_table_of_events(show):
    # Confidence: 0.9 of relevance times 0.8 of its category.
    rows = show().locator("#events tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["0:01–0:04", "Bark", "72 %"],
        ["0:06–0:08", "Flute", "72 %"],
    ]


def test_a_page_tells_that_there_are_no_events(show):
    page = show("..........")
    assert page.get_by_role("heading", name="No event in 0:10").is_visible()


def test_it_plays_and_the_playhead_follows(show):
    page = show()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("video.currentTime > 1.2")
    page.get_by_role("button", name="Pause").click()
    shown = page.evaluate("parseFloat(at('playhead').style.left)")
    assert shown == pytest.approx(10 * at(page), abs=2)
    assert page.get_by_role("heading", name="At 0:01: Bark").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_on_the_timeline_jumps(show, width):
    page = show(width=width)
    jump_to(page, 7.5)
    assert at(page) == pytest.approx(7.5, abs=0.05)
    assert page.get_by_role("heading", name="At 0:07: Flute").is_visible()


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        ("ArrowRight", 5.0),
        ("ArrowLeft ArrowLeft", 2.0),
        ("Home", 0.0),
        ("End", 10.0),
        ("PageUp", 0.0),
        ("PageDown", 10.0),
        ("n", 6.0),
        ("p", 1.0),
        ("n p", 1.0),
        ("n n", 6.0),
    ],
)
def test_keys_jump_from_the_fourth_second(show, keys, seconds):
    page = show()
    jump_to(page, 4.0)
    for key in keys.split():
        page.keyboard.press(key)
    assert at(page) == pytest.approx(seconds, abs=0.05)


def test_space_plays_and_pauses(show):
    page = show()
    slider(page).focus()
    page.keyboard.press("Space")
    page.wait_for_function("!video.paused && video.currentTime > 0")
    page.keyboard.press("Space")
    page.wait_for_function("video.paused")


def test_paused_before_it_has_begun_is_no_error(show):
    page = show()
    page.evaluate("toggle(); toggle()")
    page.wait_for_timeout(300)
    assert page.evaluate("video.paused")


def test_a_row_of_the_answer_jumps_to_its_event(show):
    page = show()
    page.get_by_role("button", name="0:06–0:08").click()
    assert at(page) == 6
    assert page.locator("#events tr[aria-current]").inner_text().split("\t")[1] == "Flute"
    assert page.get_by_role("status").inner_text() == "0:06, Flute, relevance 90 %"


def test_the_slider_describes_its_position(show):
    page = show()
    jump_to(page, 2.5)
    assert slider(page).get_attribute("aria-valuenow") == "2"
    assert slider(page).get_attribute("aria-valuetext") == "0:02, Bark, relevance 90 %"


def test_nothing_is_announced_while_it_plays(show):
    page = show()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("video.currentTime > 1.2")
    assert page.get_by_role("status").inner_text() == ""
    page.get_by_role("button", name="Pause").click()
    page.wait_for_function("at('announcement').textContent.includes('Bark')")


def test_the_map_is_brightest_where_sound_made_the_model_look(show):
    shown = grid_on_screen(show())  # on a picture of one grey
    assert shown.argmax() == 0
    assert shown.argmin() == 10


def test_the_map_changes_with_the_second(show):
    page = show()
    box = page.get_by_label("Show where the sound")
    box.uncheck()
    jump_to(page, 6.5)
    bare = grid_on_screen(page)
    slider(page).press("Home")
    box.check()
    jump_to(page, 6.5)
    assert (grid_on_screen(page) - bare).argmax() == 6


@pytest.mark.parametrize("by", ["key", "box"])
def test_the_map_can_be_switched_off(show, by):
    page = show()
    assert page.locator("canvas").is_visible()
    if by == "key":
        slider(page).press("m")
    else:
        page.get_by_label("Show where the sound").click()
    assert not page.locator("canvas").is_visible()
    assert np.ptp(grid_on_screen(page)) < 2


def test_the_map_stays_on_the_picture_when_the_window_shrinks(show):
    page = show()
    page.set_viewport_size({"width": 600, "height": 800})
    assert grid_on_screen(page).argmax() == 0


def test_the_map_is_described_in_words(show):
    page = show()
    jump_to(page, 0.5)
    # 2.0 of 2.0 + 0.0 + 14 x 0.5 in 16 cells.
    assert page.inner_text("#attention") == "most at the top left, 3.6 times the average"


def test_a_model_without_guidance_has_no_map(show):
    page = show(attention=None)
    assert not page.locator("canvas").is_visible()
    assert page.get_by_role("checkbox").count() == 0
    assert "sound does not guide vision" in page.inner_text("main")


def test_it_shows_what_changes_without_sound_and_without_picture(show):
    page = show()
    jump_to(page, 2.5)
    silenced = page.locator("#without_sound").inner_text().split("\n\n")
    assert silenced[1:3] == ["Instead: no event", "Relevance 20 %: 70 points less"]
    silenced = page.locator("#without_picture").inner_text().split("\n\n")
    assert silenced[1:3] == ["Instead: Flute", "Relevance 70 %: 20 points less"]
    assert page.locator("#both li").all_inner_texts() == ["Bark 80 %", "Flute 20 %"]
    assert page.inner_text("#lane-gate") == "40 %"


def test_the_ground_truth_is_beside_the_events_found(show):
    page = show(truth=[TimedEvent("Bark", 0.0, 4.0, 1.0)])
    # Right in seconds 1, 2, 3 and 4, 5, 8, 9.
    assert "The same as the ground truth in 7 of 10 seconds." in page.inner_text("main")
    jump_to(page, 0.5)
    assert page.inner_text("#truth") == "Bark"
    assert page.locator("[data-spans=truth] div").all_inner_texts() == ["Bark"]


def test_a_second_that_is_cut_ends_where_the_video_does(show):
    truth = [TimedEvent("Flute", 9.0, 9.5, 1.0)]
    page = show(LABELS[:-1] + "1", seconds=9.5, truth=truth)
    assert "0:09–0:09.5" in page.inner_text("#events")
    # Right in seconds 0, 4, 5, 8 and 9.
    assert "The same as the ground truth in 5 of 10 seconds." in page.inner_text("main")
    slider(page).press("End")
    assert at(page) == pytest.approx(9.5, abs=0.01)
    assert page.get_by_role("heading", name="At 0:09: Flute").is_visible()
    assert page.inner_text("#truth") == "Flute"


def test_a_reader_who_wants_no_motion_gets_whole_seconds(show):
    page = show(browser={"reduced_motion": "reduce"})
    jump_to(page, 2.7)
    assert page.evaluate("at('playhead').style.left") == "20%"


ATTACKS = (
    "</script><script>document.title = 'hacked'</script>",
    "\"'><img src=x onerror=\"document.title = 'hacked'\">",
    "{{ 7 * 7 }} &lt;b&gt; \u2028 \\",
)


def test_names_with_html_and_quotes_are_shown_as_they_are(show):
    labels = "000..111.2"
    name = "<img src=x onerror='document.title=1'>\"&amp;.mp4"
    truth = [TimedEvent(attack, 0.0, 2.0, 1.0) for attack in ATTACKS]
    page = show(
        labels, name=name, categories=ATTACKS, truth=truth, remarks=ATTACKS, model=ATTACKS[0]
    )
    assert page.title() == f"{name}: events"
    assert page.inner_text("h1") == name
    shown = page.locator("#events td:nth-child(2)").all_text_contents()
    assert [text.strip() for text in shown] == list(ATTACKS)
    for second, attack in ((0.5, ATTACKS[0]), (6.5, ATTACKS[1]), (9.5, ATTACKS[2])):
        jump_to(page, second)
        assert page.locator("#second").text_content().endswith(attack)
    assert page.locator("img, script").count() == 2


@pytest.mark.parametrize("name", ["100%41 #1?.mp4", "javascript:1.mp4", "\udcff.mp4", "Ä 音.mp4"])
def test_any_file_name_can_be_linked(show, name):
    assert show(name=name).evaluate("video.videoWidth") == 128


def test_a_video_elsewhere_is_linked_by_its_path_from_the_page(visit, video, tmp_path):
    (tmp_path / "my videos").mkdir()
    shutil.copyfile(video, tmp_path / "my videos" / "clip.mp4")
    page = tmp_path / "pages" / "page.html"
    page.parent.mkdir()
    page.write_text(video_page(timeline(video, LABELS), link="../my videos/clip.mp4"))
    visit(page).wait_for_function("video.readyState > 1")


def test_an_embedded_video_needs_nothing_beside_the_page(visit, video, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(video_page(timeline(video, LABELS), embed=True))
    page = visit(path)
    page.wait_for_function("video.readyState > 1")
    assert page.get_attribute("video", "src").startswith("data:video/mp4;base64,")
    jump_to(page, 7.5)
    assert at(page) == pytest.approx(7.5, abs=0.05)


def test_a_container_that_browsers_do_not_play_leaves_the_rest_usable(visit, tmp_path):
    video = write_video(tmp_path / "clip.avi", frames=25, sound=tone(1.0), sound_codec="mp3")
    path = tmp_path / "page.html"
    path.write_text(video_page(timeline(video, LABELS)))
    page = visit(path)
    page.get_by_role("alert").wait_for(state="visible")
    assert "does not play" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("button", name="Play").is_disabled()
    slider(page).press("n")
    slider(page).press("Space")
    assert page.get_by_role("heading", name="At 0:01: Bark").is_visible()


@pytest.mark.parametrize("name", ["clip.mp4", "x" * 120 + ".mp4"])
def test_a_phone_shows_it_without_scrolling_sideways(show, name):
    categories = ("Bark", "W" * 60)
    page = show(
        name=name, width=390, categories=categories, truth=[TimedEvent("W" * 60, 0.0, 9.0, 1.0)]
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_page_of_two_hours_is_below_3_mb(video):
    # An event of another category every second: there cannot be more.
    found = timeline(video, "02" * 3600, AVE_CATEGORIES)
    maps = np.random.default_rng(0).random((7200, 7, 7))
    found = found._replace(attention=maps / maps.sum(axis=(1, 2), keepdims=True))
    assert len(video_page(found, truth=found.events()).encode()) < 3_000_000


def test_two_hours_can_be_walked_through(visit, video):
    path = video.parent / "page.html"
    path.write_text(video_page(timeline(video, "....00..11" * 720)))
    page = visit(path)
    page.evaluate("giveUp()")  # no video of two hours is rendered for this
    page.select_option("#stretch", label="30 seconds")
    page.press("#lanes", "End")
    page.press("#lanes", "ArrowLeft")
    assert page.inner_text("#second") == "At 1:59:59: Flute"
    view, head = (page.locator(x).bounding_box() for x in ("#scroller", "#playhead"))
    assert view["x"] <= head["x"] <= view["x"] + view["width"]


OFFSET = {
    "late.webm": {"codec": "libvpx", "sound_codec": "libopus"},
    "late.mp4": {},
    "live.webm": {"codec": "libvpx", "sound_codec": "libopus", "muxer": {"live": "1"}},
}


@pytest.fixture(scope="module", params=OFFSET)
def late(request, tmp_path_factory):
    """A video whose own times go from 5 to 15 s; it shows the numbers 0 to 49."""
    path = tmp_path_factory.mktemp("late") / request.param
    times = [5 + k / 5 for k in range(50)]
    return write_video(
        path, frames=50, times=times, sound=tone(), sound_start=5.0, **OFFSET[path.name]
    )


def number_on_screen(page) -> int:
    """That of the frame."""
    page.wait_for_function("!video.seeking")
    page.wait_for_timeout(300)  # until it is painted
    image = Image.open(io.BytesIO(page.locator("video").screenshot())).convert("RGB")
    width = image.height * 128 / 96
    middle = image.crop(((image.width - width) / 2, 0, (image.width + width) / 2, image.height))
    return read_counter(np.asarray(middle.resize((128, 96)))[:, 16:-16], 128, 96)


def test_a_click_shows_the_picture_of_its_second_whatever_the_file_s_clock(visit, late):
    starts_at = probe(late, short_side=96, crop=96).starts_at
    page_file = late.with_suffix(".html")
    page_file.write_text(video_page(timeline(late, LABELS, starts_at=starts_at, attention=None)))
    page = visit(page_file)
    page.wait_for_function("video.readyState > 1")
    assert number_on_screen(page) == 0
    for second in (9.1, 3.1):
        jump_to(page, second)
        assert number_on_screen(page) == int(5 * second)
        assert page.inner_text("#clock") == f"0:0{int(second)}"
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("position > 3.3 && position < 6")


def test_captions_are_shown_with_the_pictures_they_belong_to(visit, late):
    starts_at = probe(late, short_side=96, crop=96).starts_at
    captions = to_vtt([TimedEvent("Bark", 3.0, 4.0, 0.9)], starts_at)
    page_file = late.with_suffix(".captions.html")
    data = base64.b64encode(captions.encode()).decode()
    page_file.write_text(
        f"<link rel=icon href=data:,><video id=video src={late.name} width=128>"
        f"<track default src='data:text/vtt;base64,{data}'></video>"
    )
    page = visit(page_file)
    page.wait_for_function(
        "video.readyState > 1 && document.querySelector('track').readyState == 2"
    )
    cue = "video.textTracks[0].cues[0]"
    page.evaluate(f"video.textTracks[0].mode = 'hidden'; video.currentTime = {cue}.startTime + 0.1")
    assert number_on_screen(page) == 15
