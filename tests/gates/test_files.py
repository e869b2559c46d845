"""The one writer, and the one opener of what came from others."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from tim_search.gates import files
from tim_search.types import BadInput


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails_with(number: int) -> object:
    def failing(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written")])
def test_a_full_or_read_only_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    path = files.write_durably(tmp_path / "deep" / "er" / "x.txt", b"first")
    monkeypatch.setattr(os, "fsync", fails_with(number))
    with pytest.raises(BadInput, match=f"x.txt cannot be written: .*{advice}"):
        files.write_durably(path, b"second")
    with pytest.raises(BadInput, match="Name another page"), files.replacing(path, "Name another page.") as aside:
        aside.write_text("third")
    assert path.read_bytes() == b"first"
    assert entries(path.parent) == ["x.txt"]


def test_a_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="cannot be written"):
        files.write_durably(tmp_path / "x" / "y", b"")
    with pytest.raises(BadInput, match="A folder stands where"):
        files.write_durably(tmp_path / "folder", b"")
    assert entries(tmp_path) == ["folder", "x"]


def test_what_a_library_writes_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    with files.replacing(path) as aside:
        assert aside.suffix == ".png"
        assert not path.exists()
        aside.write_bytes(b"whole")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as aside:
        aside.write_bytes(b"half" * (1 // 0))
    assert path.read_bytes() == b"whole"
    assert entries(tmp_path) == ["figure.png"]


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    files.write_durably(tmp_path / ("x" * 255), b"")
    with pytest.raises(BadInput, match="256 bytes"):
        files.write_durably(tmp_path / ("x" * 256), b"")


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("model", "empty"):
        with files.new_folder(tmp_path / name) as aside:
            (aside / "deep").mkdir()
            (aside / "deep" / "x").write_text("x")
        assert (tmp_path / name / "deep" / "x").read_text() == "x"
    with pytest.raises(files.Taken, match="Choose another"), files.new_folder(tmp_path / "model") as aside:
        (aside / "y").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(files.Taken), files.new_folder(tmp_path / "link"):
        pass
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "other"):
        raise ZeroDivisionError
    assert entries(tmp_path) == ["empty", "link", "model"]
    assert entries(tmp_path / "model") == ["deep"]


def test_lines_of_two_writers_do_not_mix_and_a_torn_one_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("torn")
    writers = [
        threading.Thread(target=lambda text=text: [files.append_durably(path, text * 50) for _ in range(20)])
        for text in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_text().splitlines()
    assert lines[0] == "torn"
    assert sorted(lines[1:]) == ["a" * 50] * 20 + ["b" * 50] * 20


def test_a_line_that_nobody_would_keep_is_not_taken_for_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(BadInput, match="a pipe or a device"):
            files.append_durably(place, "the test patients were read")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 256, "x/" * 2100, "é" * 128])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    for act in (files.checked_path, files.open_regular, files.read_text, lambda path: files.write_durably(path, b"")):
        with pytest.raises(BadInput, match="Choose another name"):
            act(f"{tmp_path}/{name}")
    with pytest.raises(BadInput, match="Choose another name"):
        files.inside(tmp_path, name)


def test_nothing_but_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "to pipe").symlink_to("pipe")
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "good link").symlink_to("file")
    for name, problem in {
        "pipe": "got a pipe",
        "to pipe": "got a pipe",
        "dangling": "leads nowhere",
        "circle": "leads nowhere",
        ".": "got a folder",
        "/dev/zero": "got a device",
    }.items():
        with pytest.raises(BadInput, match=problem):
            files.open_regular(tmp_path / name)
    with files.open_regular(tmp_path / "good link", 5) as file:
        assert file.read() == b"12345"
    with pytest.raises(BadInput, match="at most 4 bytes, got 5"):
        files.open_regular(tmp_path / "file", 4)
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path / "none")


def test_a_received_path_stays_inside_its_folder(tmp_path: Path) -> None:
    home = tmp_path / "received"
    (home / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_text("")
    (home / "link").symlink_to(tmp_path / "secret")
    (home / "folder").symlink_to(tmp_path)
    (tmp_path / "received-too").mkdir()
    allow = "Say --allow-outside where you trust it."
    for name in ("../secret", "/etc/passwd", "link", "folder/secret", "deep/../../secret", "../received-too/x"):
        with pytest.raises(BadInput, match=r"outside of it .*--allow-outside"):
            files.inside(home, name, outside=allow)
        assert files.inside(home, name) == home / name
    assert files.inside(home, "deep/../x", outside=allow) == home / "deep/../x"
    through = tmp_path / "through"
    through.symlink_to(home)
    assert files.inside(through, "x", outside=allow) == through / "x"


def test_texts_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa: \xc3\xbc")
    assert files.read_text(tmp_path / "a") == "a: ü"
    (tmp_path / "b").write_bytes(b"a\xff")
    with pytest.raises(BadInput, match="search file in UTF-8"):
        files.read_text(tmp_path / "b", "search file")


def test_a_socket_is_no_file() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "s"  # the path of a socket has at most 107 characters
        listener.bind(str(path))
        with pytest.raises(BadInput, match="expected a file, got a socket or a device"):
            files.open_regular(path)
