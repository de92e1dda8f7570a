"""Checkpoints on servers and in archives."""

import zipfile

import fsspec
import pytest
from fsspec.implementations.http import HTTPFileSystem

from tests.helpers.web_server import serving
from vbp_lightning.errors import UserError
from vbp_lightning.models import fetching
from vbp_lightning.models.fetching import local_file


@pytest.fixture
def server(tmp_path):
    for name in ("served", "notes"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "served", tmp_path / "notes") as started:
        yield started


def test_checkpoints_are_fetched_once(server):
    checkpoint = server.root / "best.ckpt"
    checkpoint.write_bytes(bytes(range(256)) * 400)
    with zipfile.ZipFile(server.root / "run.zip", "w") as archive:
        archive.write(checkpoint, "run/best.ckpt")
    for name, place in (
        (f"{server.url}/best.ckpt?token=a=b", f"http/{server.address}/best.ckpt"),
        (f"zip://run/best.ckpt::{server.root}/run.zip", "run.zip/zip/run/best.ckpt"),
        (f"zip://run/best.ckpt::{server.url}/run.zip", "run.zip/zip/run/best.ckpt"),
    ):
        path = local_file(name, "ckpt")
        assert path.read_bytes() == checkpoint.read_bytes()
        assert str(path).endswith(place)
        assert local_file(name, "ckpt") == path
    for name in ("run/best.ckpt", "run/x=1::2/best.ckpt", "/a:b/best.ckpt"):
        assert str(local_file(name, "ckpt")) == name


def test_faults_are_one_line(server, monkeypatch):
    (server.root / "best.ckpt").write_bytes(bytes(100_000))
    monkeypatch.setattr(fetching, "_WAITING", {"sock_connect": 1.0, "sock_read": 0.5})
    monkeypatch.setattr(fsspec.config, "conf", {})
    HTTPFileSystem.clear_instance_cache()
    behaviours = [{"code": 404}, {"code": 403}, {"code": 503}, {"cut": 1000}, {"pause": 5}]
    names = [f"{server.url}/best.ckpt?{number}" for number in range(len(behaviours))]
    others = ["s3://bucket/best.ckpt", "unknown://best.ckpt", "http://127.0.0.1:9/best.ckpt"]
    for name, behaviour in zip([*names, *others], [*behaviours, {}, {}, {}], strict=True):
        server.behave(**behaviour)
        with pytest.raises(UserError) as caught:
            local_file(name, "init_from")
        (line,) = caught.value.lines
        assert line.startswith(f"{name}: cannot be fetched (")
        assert line.endswith("(init_from)")
        assert "\n" not in line
