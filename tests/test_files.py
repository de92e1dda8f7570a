"""Atomic writing of files, and the temporary files of processes that ended."""

import errno
import os
import platform
import shutil
import subprocess
import sys

import pytest
from rasterio.errors import RasterioIOError

from vbp_lightning.files import WriteError, remove_leftovers, replacing


def test_the_temporary_name_holds_host_and_process(tmp_path):
    with replacing(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"content")
        assert temporary.name == f".a.{platform.node()[:32]}.{os.getpid()}.tmp.png"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_only_leftovers_of_dead_processes_of_this_host_are_removed(tmp_path):
    host = platform.node()[:32]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "panels").mkdir()
    removed = [
        f".metrics.{host}.{ended.pid}.tmp.json",
        f".best.{ended.pid}.tmp.ckpt",  # of version 0.1
        f"panels/.epoch_001.{host}.{ended.pid}.tmp.png",
        f".a.b.{host}.{ended.pid}.tmp",
        f".projector.{host}.{ended.pid}.tmp/features.tsv",
    ]
    left = [
        f".metrics.{host}.{os.getpid()}.tmp.json",
        f".metrics.another-{host}.{ended.pid}.tmp.json",
        f"metrics.{host}.{ended.pid}.tmp.json",
        ".notes.tmp",
    ]
    (tmp_path / removed[-1]).parent.mkdir()
    for name in (*removed, *left):
        (tmp_path / name).write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left, "panels"])
    assert not list((tmp_path / "panels").iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_failed_write_leaves_the_older_file(tmp_path, code):
    path = tmp_path / "metrics.json"
    path.write_text("older")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        fail()
    assert caught.value.filename == str(path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("metrics.json", "older")]


def test_a_folder_is_written_completely_or_not_at_all(tmp_path):
    folder = tmp_path / "projector"

    def fail():
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / "half").touch()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(WriteError):
        fail()
    assert not list(tmp_path.iterdir())
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "whole").touch()
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_an_error_of_a_writer_that_has_no_number_names_the_file(tmp_path):
    """GDAL's errors are such."""
    with pytest.raises(WriteError) as caught, replacing(tmp_path / "map.tif"):
        raise RasterioIOError("TIFFAppendToStrip: Write error at scanline 511")
    assert caught.value.filename == str(tmp_path / "map.tif")
    assert caught.value.strerror == "TIFFAppendToStrip: Write error at scanline 511"


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for _ in range(2):
        with replacing(run_dir / "panels" / "a.png", subfolder=True) as temporary:
            temporary.touch()
    assert (run_dir / "panels" / "a.png").is_file()
    shutil.rmtree(run_dir)
    panel, metrics = run_dir / "panels" / "b.png", run_dir / "metrics.json"
    for path, named in ((panel, panel.parent), (metrics, metrics)):
        with (
            pytest.raises(WriteError, match="No such file") as caught,
            replacing(path, subfolder=path is panel) as temporary,
        ):
            temporary.touch()
        assert caught.value.filename == str(named)
    assert not run_dir.exists()
