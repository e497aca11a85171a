"""Plain and gzipped files, read in chunks and from anywhere."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from openwork.errors import DataError
from openwork.study import sources
from openwork.study.sources import read_chunks, read_range


def content(size: int = 300_000) -> bytes:
    rng = random.Random(size)
    return "".join(f"line {number} {rng.random()}\n" for number in range(size // 26)).encode()


def packed(text: bytes, form: str) -> bytes:
    if form == "plain":
        return text
    if form == "gzip":
        return gzip.compress(text)
    # as bgzip writes it: many members, an empty one at the end
    members = [text[first : first + 9000] for first in range(0, len(text), 9000)]
    ending = b"\0" * 512 if form == "members and zeros" else b""
    return b"".join(map(gzip.compress, [*members, b""])) + ending


@pytest.mark.parametrize("form", ["plain", "gzip", "members", "members and zeros"])
def test_any_range_is_what_it_is_in_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(sources, "_PLACE_BYTES", 20_000)
    text = content()
    (tmp_path / "a").write_bytes(packed(text, form))
    assert b"".join(read_chunks(tmp_path / "a", 7777)) == text
    rng = random.Random(1)
    for _ in range(40):
        first = rng.randrange(len(text))
        stop = rng.choice([None, first, min(len(text), first + rng.randrange(60_000))])
        assert read_range(tmp_path / "a", first, stop) == text[first:stop]
    assert read_range(tmp_path / "a", 0, None) == text
    assert read_range(tmp_path / "a", len(text), None) == b""


@pytest.mark.parametrize("form", ["gzip", "members"])
def test_places_are_used_so_that_no_range_is_unpacked_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(sources, "_PLACE_BYTES", 20_000)
    text = content()
    (tmp_path / "a.gz").write_bytes(packed(text, form))
    reader = sources._Packed(tmp_path / "a.gz")
    reader.read(len(text) - 10, None)
    assert len(reader._places) > 5
    assert reader._places[-1].text > len(text) - 3 * 20_000 - sources._PACKED_CHUNK * 10
    assert reader.read(150_000, 150_100) == text[150_000:150_100]


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one and more"))
    assert read_range(tmp_path / "a.gz", 0, 3) == b"one"
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"two"))
    assert read_range(tmp_path / "a.gz", 0, 3) == b"two"


def test_a_gzip_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(content())[:-500])
    message = r"cut.gz ends before its gzip stream does, after \d+ bytes of text: it was cut short or damaged. Fetch it"
    with pytest.raises(DataError, match=message):
        list(read_chunks(path))
    with pytest.raises(DataError, match=message):
        read_range(path, 0, None)


def test_a_gzip_that_is_damaged_is_named(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(content()))
    whole[5000:5050] = bytes(50)
    (tmp_path / "bad.gz").write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"bad.gz is no whole gzip file \(.*\), after \d+ bytes.*--exclude 'bad.gz'"):
        list(read_chunks(tmp_path / "bad.gz"))
    with pytest.raises(DataError, match=r"bad.gz (is no whole gzip file|ends before)"):
        read_range(tmp_path / "bad.gz", 0, None)
