"""The published feature files, in small: 24 rows of three categories in the form of the real ones.

Row 2 is a clip without any event; row 5 holds two events in labels.h5, one in Annotations.txt; rows
1 and 9 are the same file with two categories.
"""

import h5py
import numpy as np

NAMES = ("Truck", "Bark", "Male speech, man speaking")  # by first appearance, not by the alphabet
ROWS = 24
SPLIT_OF = ["train", "train", "val", "test"] * 6


def annotation_lines(names=NAMES):
    lines = []
    for row in range(ROWS):
        id_, start, end = f"-id{row:02}", row % 3, 4 + row % 5
        if row == 2:
            start = end = 0
        elif row == 5:
            start, end = 0, 5
        elif row == 9:
            id_, start, end = "-id01", 1, 5
        lines.append(f"{names[row // 8]}&{id_}&good&{start}&{end}")
    return lines


def one_hot_labels(columns=4, index=(0, 1, 2)):
    labels = np.full((ROWS, 10), columns - 1)
    for row, line in enumerate(annotation_lines()):
        start, end = map(int, line.split("&")[3:])
        labels[row, start:end] = index[row // 8]
    labels[5, 5:8] = index[1]
    return np.eye(columns)[labels]


def write(folder, name, values, key="avadataset"):
    (folder / name).unlink(missing_ok=True)
    with h5py.File(folder / name, "w") as file:
        file[key] = values


def write_release(folder):
    """All files, into a new folder."""
    folder.mkdir()
    (folder / "Annotations.txt").write_text("\n".join(annotation_lines()) + "\n")
    rng = np.random.default_rng(0)
    write(folder, "visual_feature.h5", rng.random((ROWS, 10, 2, 2, 6)))
    write(folder, "audio_feature.h5", rng.random((ROWS, 10, 8)))
    write(folder, "labels.h5", one_hot_labels())
    of_clip = np.eye(4, dtype=np.float32)[np.arange(ROWS) // 8]
    write(folder, "mil_labels.h5", of_clip)
    is_event = 1 - one_hot_labels()[:, :, -1]
    is_event[5, 5:] = 0
    write(folder, "labels_closs.h5", is_event.astype(np.float32))
    for split in ("train", "val", "test"):
        rows = [row for row in range(ROWS) if SPLIT_OF[row] == split]
        write(folder, f"{split}_order.h5", np.array(rows[::-1]), key="order")
        # Of cross-modality localization: the split of the row before.
        matching = [row for row in range(ROWS) if SPLIT_OF[row - 1] == split]
        write(folder, f"{split}_order_match.h5", np.array(matching), key="order")
    return folder


def write_without_event(folder, rows=5):
    """The feature files of clips without an event, for weak supervision."""
    rng = np.random.default_rng(1)
    write(folder, "visual_feature_noisy.h5", rng.random((rows, 10, 2, 2, 6)))
    write(folder, "audio_feature_noisy.h5", rng.random((rows, 10, 8)))
