"""Files that are written, on file systems as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossent.outputs import same_file, whole_file, why_not_writable, write_whole


def test_one_file_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_text("")
    (tmp_path / "soft").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    (tmp_path / "again").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for other in (Path("a"), Path("./a"), tmp_path / "soft", tmp_path / "hard", tmp_path / "again" / "a"):
        assert same_file(other, file)
        assert "it is the input " in str(why_not_writable(other, [file]))
    assert not same_file(tmp_path / "b", file)
    assert same_file(tmp_path / "b", Path("b"))
    assert why_not_writable(tmp_path / "b", [file]) is None


def test_a_text_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "ä b"
    write_whole(path, "héllo\n")
    assert path.read_bytes() == "héllo\n".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(TypeError), whole_file(path) as file:
        print("half of", 3, "and", b"more", file=file, end=0)  # pyright: ignore
    assert path.read_bytes() == "héllo\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["ä b"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(path, "")
    assert caught.value.filename == str(path)
    assert "there is no directory" in str(why_not_writable(path))
