"""Paths of files in archives, on web servers and in object stores."""

import gzip
import io
import os
import re
import zipfile
import zlib
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from vbp_lightning.data.datasets import vsi
from vbp_lightning.records import PathName

_SYSTEMS = {
    **{"zip": "zip", "tar": "tar", "gzip": "gzip"},
    **{"http": "curl", "https": "curl", "ftp": "curl"},
    **{"s3": "s3", "gs": "gs", "az": "az", "oss": "oss"},
}
"""GDAL's file systems by the schemes of rasterio's names."""

_ARCHIVE_NAME = re.compile(r"(.+?\.(?:zip|kmz|tar|tgz|gz))(?:/(.*))?", re.DOTALL)
_URI = re.compile(r"([a-z0-9]+(?:\+[a-z0-9]+)*):/{1,3}(?=[^/])(.*)", re.DOTALL)
_ARCHIVES = re.compile(r"((?:/?vsi(?:zip|tar|gzip|7z|rar)/+\{?)*)(.*)", re.DOTALL)

if TYPE_CHECKING:
    _Local = Path
else:
    _Local = type(Path())


class VirtualPath(_Local):
    """A path that the operating system does not know and GDAL opens.

    As text it is GDAL's name: ``/vsizip//folder/archive.zip/image.tif``,
    ``/vsicurl/https://host/image.tif``, ``/vsis3/bucket/image.tif``. It is made by
    :func:`source_path`.
    """

    def __str__(self) -> str:
        # pathlib merges the slashes that GDAL needs
        text = re.sub(r"(?<=[/{])(https?|ftp):/(?=[^/])", r"\1://", super().__str__())
        return re.sub(r"^((?:/vsi(?:zip|tar|gzip|7z|rar))+)/(?!vsi|\{|/|$)", r"\1//", text)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """The last part, without the query of a URL."""
        name = super().name
        return name.partition("?")[0] if self.is_on_network and not self.is_archived else name

    @cached_property
    def _parts_of_name(self) -> tuple[str, str]:
        """The archives, and the path of the outermost one or of the file itself."""
        match = _ARCHIVES.fullmatch(str(self))
        assert match is not None
        return match[1], match[2] if match[2].startswith("/") else f"/{match[2]}"

    @property
    def is_on_network(self) -> bool:
        """Whether the file, or the archive that holds it, is on a server."""
        return self._parts_of_name[1].startswith("/vsi")

    @property
    def is_archived(self) -> bool:
        """Whether the file is in an archive."""
        return bool(self._parts_of_name[0])

    @property
    def can_be_listed(self) -> bool:
        """Whether folders can be listed; those of web servers cannot."""
        return self.is_archived or not self._parts_of_name[1].startswith("/vsicurl")

    @cached_property
    def archive(self) -> tuple[Path, str] | None:
        """The outermost archive that holds the file, and the rest of the path; None without one."""
        place = self._parts_of_name[1].replace("}", "")
        if not self.is_archived:
            return None
        if self.is_on_network:
            match = _ARCHIVE_NAME.fullmatch(place)
            return (source_path(match[1]), match[2] or "") if match else None
        inner, *_ = places = self.local_places
        found = next((each for each in places if each.is_file()), None)
        return (found, inner.relative_to(found).as_posix()) if found else None

    @property
    def local_places(self) -> list[Path]:
        """The paths on disk one of which is the archive; none for a file of a server."""
        inner = Path(self._parts_of_name[1].replace("}", ""))
        return [] if self.is_on_network else [inner, *inner.parents]

    def check(self) -> None:
        """Compares the file with the checksum of its archive, which GDAL does not.

        Raises:
            OSError: The archive is damaged.
        """
        if self.archive is None or self._parts_of_name[0].count("vsi") > 1:
            return
        archive, name = self.archive
        is_zip = "vsizip" in self._parts_of_name[0]
        _check_member(archive, is_zip, name if is_zip else "", *size_and_times(archive))

    def headers(self) -> dict[str, str] | None:
        """The headers of the file itself on its server; None if it is in an archive.

        Raises:
            OSError: There is no such file, or the server cannot be reached.
        """
        return None if self.is_archived or not self.is_on_network else vsi.headers(str(self))

    def entries(self) -> list[tuple[str, bool]] | None:
        """Lists a folder: see :func:`~vbp_lightning.data.datasets.vsi.entries`."""
        return vsi.entries(str(self)) if self.can_be_listed else None

    def is_dir(self) -> bool:  # noqa: D102
        return self.entries() is not None

    def is_file(self) -> bool:  # noqa: D102
        if self.is_archived and self.is_dir():
            return False
        try:
            if self.headers() is None:
                vsi.VsiFile(str(self)).close()
        except FileNotFoundError:
            return False
        return True

    def exists(self) -> bool:  # noqa: D102
        return self.is_file() or self.is_dir()

    def absolute(self) -> "VirtualPath":  # noqa: D102
        return self

    def resolve(self, strict: bool = False) -> "VirtualPath":  # noqa: D102
        return self

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]  # noqa: ANN401, D102
        self.check()
        stream = io.BufferedReader(vsi.VsiFile(str(self)), 1 << 16)
        return stream if "b" in mode else io.TextIOWrapper(stream, *args, **kwargs)


def size_and_times(path: Path) -> tuple[int, ...]:
    """Size and times of change of a file, or of the archive that holds it; none on a server.

    The second time changes also when a program restores the first, as ``cp -p`` does.
    """
    if isinstance(path, VirtualPath):
        return size_and_times(path.archive[0]) if path.archive else ()
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=1 << 12)
def _check_member(archive: Path, is_zip: bool, name: str, *_times: int) -> None:
    """Reads a member of a zip file, or a compressed archive, and so its checksum."""
    try:
        with archive.open("rb") as stream, ExitStack() as stack:
            if is_zip:
                members = stack.enter_context(zipfile.ZipFile(stream))
                known = members.namelist()
                member = known[0] if name in ("", ".") and len(known) == 1 else name
                if member not in known:
                    return
                content: Any = stack.enter_context(members.open(member))
            elif archive.suffix in (".gz", ".tgz"):
                content = stack.enter_context(gzip.open(stream))
            else:
                return
            while content.read(1 << 20):
                pass
    except (NotImplementedError, RuntimeError):  # compressed or encrypted in a way of its own
        return
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise OSError(f"{archive} is damaged: {error}") from error


def source_path(name: str | Path) -> Path:
    """The path of a file or folder that GDAL or rasterio name.

    Args:
        name: A path, a name of GDAL (``/vsizip/a.zip/b.tif``), or one of rasterio:
            ``zip://a.zip!b.tif``, ``https://host/b.tif``, ``s3://bucket/b.tif``,
            ``zip+https://host/a.zip!b.tif``, likewise with ``tar``, ``gzip``, ``http``, ``ftp``,
            ``gs``, ``az``, ``oss`` and ``file``.

    Returns:
        A :class:`VirtualPath` unless the operating system knows the path.
    """
    if isinstance(name, VirtualPath):
        return name
    text = str(name)
    match = _URI.fullmatch(text)
    schemes = [each for each in match[1].split("+") if each != "file"] if match else []
    if match and all(each in _SYSTEMS for each in schemes):
        rest = match[2].replace("!", "/") if set(schemes) & {"zip", "tar", "gzip"} else match[2]
        if _SYSTEMS.get(schemes[-1] if schemes else "", "curl") == "curl" and schemes:
            rest = f"{schemes[-1]}://{rest}"
        elif text[len(match[1]) :].startswith(":///") or not schemes:
            rest = f"/{rest}"
        text = "".join(f"/vsi{_SYSTEMS[each]}/" for each in schemes) + rest
    if not text.startswith("/vsi"):
        return Path(text)
    archives = _ARCHIVES.fullmatch(text)
    assert archives is not None
    if archives[1] and not archives[2].startswith(("/", "vsi")) and not archives[1].endswith("//"):
        text = archives[1] + os.path.abspath(archives[2])
    return VirtualPath(text)


def _as_source(name: object) -> object:
    return source_path(name) if isinstance(name, str) and name else name


SourcePath = Annotated[PathName, BeforeValidator(_as_source)]
"""The path of a setting: of the operating system, GDAL or rasterio."""


def below(folder: Path, name: str) -> Path:
    """The path of a file by its name in a folder, or by a name of its own as of GDAL."""
    path = source_path(name)
    return path if path.is_absolute() else folder / path
