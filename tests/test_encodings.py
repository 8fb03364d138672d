"""Text files are UTF-8 on every machine, also where the locale has another encoding."""

import ast
import io
import os
import sys
from pathlib import Path

import pandas as pd

from cace.data.manifest import publish_media, read_manifest
from cace.data.sources.folder import id_of
from cace.system import errors

ROOT = Path(__file__).parent.parent
FOLDERS = ("ablations", "baselines", "benchmarks", "cace", "docs", "matching", "stages")


def in_the_locales_encoding(source: str) -> list[int]:
    """The lines that read or write text without naming its encoding."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        mode = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        opens_text = ast.unparse(call.func) == "open" or (
            name == "open" and ("b" not in mode if isinstance(mode, str) else not call.args)
        )
        is_text = name in ("read_text", "write_text") or opens_text or given.get("text") == "True"
        if is_text and "encoding" not in given:
            lines.append(call.lineno)
    return lines


def test_what_reads_in_the_locales_encoding_is_noticed():
    for bad in ("p.read_text()", "p.open()", "p.open('a')", "open(p)", "run(c, text=True)"):
        assert in_the_locales_encoding(bad) == [1], bad
    for good in ("p.read_text(encoding='utf-8')", "p.open('rb')", "read_text(p)", "av.open(p)"):
        assert in_the_locales_encoding(good) == [], good


def test_every_text_file_is_read_and_written_with_a_named_encoding():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for line in in_the_locales_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_stage_prints_names_that_the_terminal_cannot_show(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    errors.run(lambda: print("Türklingel 鈴", flush=True))
    assert terminal.buffer.getvalue() == rb"T\xfcrklingel \u9234" + b"\n"


def test_a_file_name_is_the_same_text_in_every_locale(tmp_path, monkeypatch):
    names = ["AVE/Türklingel.mp4", "AVE/鈴.mp4"]
    as_latin_1_shows = [name.encode().decode("latin-1") for name in names]
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    with monkeypatch.context() as locale:
        locale.setattr(os, "fsencode", lambda name: name.encode("latin-1"))
        locale.setattr(os, "fsdecode", lambda name: name.decode("latin-1"))
        assert id_of(Path(as_latin_1_shows[0])) == "Türklingel"
        publish_media(media, pd.DataFrame({"id": ["a", "b"], "file": as_latin_1_shows}), out)
        assert list(read_manifest(out)["file"]) == as_latin_1_shows
    assert list(read_manifest(out)["file"]) == names
