"""Numbers that several packages share, each defined only here."""

SEGMENTS = 10  # T: one-second segments of a clip
SPLITS = ("train", "val", "test")
SAMPLE_RATE = 32_000  # Hz, of all decoded sound

# Ends of the names of video files in a folder. Of one clip's files, the first kind is used.
VIDEO_ENDINGS = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".qt", ".f4v", ".3gp", ".3g2", ".flv"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".wmv", ".asf", ".ogv", ".mxf"),
    *(".dv", ".divx"),
)

# Defaults of the command line outside of a project, whose settings are in its params.yaml.
MIN_SECONDS = 9.0  # a clip with less picture or sound is refused
DEADLINE_SECONDS = 120.0  # a clip that takes longer to decode is refused
THRESHOLD = 0.5  # θ of section 3.5: an event is a segment above it

SCORED_CLIPS = 64  # clips scored at once; the scores do not depend on it

# Of the intervals of test scores, which other clips of the same kind might have given.
CONFIDENCE = 0.95
RESAMPLES = 10_000
