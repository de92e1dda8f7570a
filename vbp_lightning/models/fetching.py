"""Checkpoints and weights that fsspec fetches: from web servers, stores and archives."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath

from vbp_lightning.errors import UserError, one_line

_WAITING = {"sock_connect": 10.0, "sock_read": 20.0}
"""Seconds after which a web server that does not answer is given up."""


def local_file(name: str, key: str) -> Path:
    """The file of a name that the user gave.

    Args:
        name: A path, or a URL of fsspec: ``https://host/best.ckpt``, ``s3://bucket/best.ckpt``,
            ``zip://best.ckpt::https://host/run.zip``.
        key: The config key through which it was given, for messages.

    Returns:
        The path, or that of a copy which is deleted when the program ends.

    Raises:
        UserError: The file cannot be fetched.
    """
    return _fetched(name, key) if "://" in name else Path(name)


@cache
def _fetched(url: str, key: str) -> Path:
    import fsspec
    from aiohttp import ClientTimeout

    for scheme in ("http", "https"):
        settings = fsspec.config.conf.setdefault(scheme, {})
        settings.setdefault("client_kwargs", {"timeout": ClientTimeout(total=None, **_WAITING)})
    folder = Path(tempfile.mkdtemp(prefix="vbp_lightning_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Messages about the file show where it is from.
    links = (each.partition("?")[0].replace("://", "/") for each in reversed(url.split("::")))
    place = PurePosixPath("/".join(links))
    path = folder.joinpath(*(part for part in place.parts if part not in ("/", "..")))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        system, name = fsspec.url_to_fs(url)
        system.get_file(name, str(path))
    except Exception as error:  # each of fsspec's systems raises errors of its own
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else one_line(error) or type(error).__name__
        raise UserError(
            f"{url}: cannot be fetched ({reason}): check the name and the connection, or copy the "
            f"file to this machine ({key})"
        ) from error
    return path
