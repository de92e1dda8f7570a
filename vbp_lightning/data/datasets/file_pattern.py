"""File patterns with placeholders: ``{split}/sat/{name}.tif*``."""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from vbp_lightning.data.datasets.listing import files_below
from vbp_lightning.data.datasets.virtual_path import VirtualPath, below, source_path

_COMPANIONS = {
    *(".aux", ".xml", ".ovr", ".msk", ".prj", ".cpg", ".txt", ".md", ".csv", ".json", ".html"),
    *(".hdr", ".dbf", ".shx", ".qix", ".sbn", ".sbx", ".qmd", ".ind", ".qpj", ".qml", ".sld"),
    *(".gfs", ".atx", ".cst", ".lyr", ".lyrx", ".qlr", ".gpkg-wal", ".gpkg-shm", ".gpkg-journal"),
    *(".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".pgw", ".pngw", ".wld", ".tab", ".rpb", ".imd"),
    *(".j2w", ".bpw", ".gfw", ".rrd", ".enp", ".clr", ".stx"),
    *(".yaml", ".yml", ".log", ".pdf", ".zip", ".gz", ".tar", ".db", ".ini", ".py", ".sh"),
}
"""Suffixes of files beside images and vector files that are neither."""

VECTOR_SUFFIXES = frozenset(
    {
        *(".geojson", ".gpkg", ".shp", ".fgb", ".kml", ".kmz", ".gml", ".gpx", ".sqlite"),
        *(".parquet", ".geoparquet", ".pbf", ".osm", ".geojsonl", ".mif", ".mid", ".dxf"),
    }
)
"""Suffixes of vector files, which are no images."""

Found = tuple[dict[str, str], Path]
"""The value of each placeholder, and the path."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class FilePattern:
    """A pattern for paths below a folder.

    ``*`` and ``?`` match within the name of one folder or file, ``**/`` matches any number of
    folders, and a placeholder such as ``{name}`` matches a part of a name that is remembered.
    Upper and lower case are the same.

    Args:
        pattern: Path with slashes: below the folder, or absolute, also of GDAL or rasterio.
        excluded: Suffixes of files that are left out, as companions of images are, unless the
            pattern ends with them.

    Attributes:
        names: The placeholders, in their order.
    """

    def __init__(self, pattern: str, excluded: Collection[str] = ()) -> None:
        self.pattern = pattern
        self.names = tuple(_PLACEHOLDER.findall(pattern))
        self._excluded = {*_COMPANIONS, *excluded} - {Path(pattern).suffix.lower()}

    def find(self, root: Path, key: str = "data.root") -> list[Found]:
        """Finds the files below a folder.

        See :func:`~vbp_lightning.data.datasets.listing.files_below`.

        Args:
            root: The folder. Hidden files, those that other programs leave, and special files in
                it are left out; with ``**``, each folder in it is visited once.
            key: The config key that names it, for messages.

        Returns:
            The files, ordered by folder and name.

        Raises:
            DataError: A folder cannot be listed.
        """
        if self.is_remote_file:
            return [({}, source_path(self.pattern))]
        fixed, pattern = self._divided
        root = fixed if fixed.is_absolute() else root
        regex = re.compile(_to_regex(pattern), re.IGNORECASE)
        found = []
        for file in files_below(root, key, self._enters, once="**" in pattern):
            match = regex.fullmatch(file.as_posix())
            if match and file.suffix.lower() not in self._excluded:
                found.append((match.groupdict(), root / file))
        return found

    @property
    def is_remote_file(self) -> bool:
        """Whether the pattern is the name of one file in an archive or on a server."""
        path = source_path(self.pattern)
        is_pattern = re.search(r"[*?{]", _glob_part(path))
        return isinstance(path, VirtualPath) and not is_pattern

    @cached_property
    def _divided(self) -> tuple[Path, str]:
        """The fixed folders at the beginning of an absolute pattern, and the rest of it."""
        path = source_path(self.pattern)
        if not path.is_absolute():
            return Path(), self.pattern
        fixed = next(each for each in path.parents if not re.search(r"[*?{]", _glob_part(each)))
        return fixed, path.relative_to(fixed).as_posix()

    def _enters(self, folders: tuple[str, ...]) -> bool:
        """Whether a folder may hold files that match."""
        segments = self._divided[1].split("/")
        if any("**" in each and each != "**" for each in segments):
            return True
        return _leads_on(folders, segments)

    def key(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """The values of this pattern's placeholders among those of another pattern."""
        return tuple(values[name] for name in self.names)

    def by_key(self, found: Iterable[Found]) -> dict[tuple[str, ...], list[Path]]:
        """Files by the values of this pattern's placeholders."""
        paths: dict[tuple[str, ...], list[Path]] = {}
        for values, path in found:
            paths.setdefault(self.key(values), []).append(path)
        return paths

    def path(self, root: Path, values: Mapping[str, str]) -> Path:
        """The path of a file by the values of the placeholders; those without one stay."""
        name = _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.pattern)
        return below(root, name)


def _glob_part(path: Path) -> str:
    """A path without what looks like a pattern in names of GDAL: archives in braces, queries."""
    if isinstance(path, VirtualPath):
        return re.sub(r"/vsi\w+/\{[^{}]*\}|(?<=[^/*])\?.*=", "", str(path))
    return str(path)


def _leads_on(folders: tuple[str, ...], segments: list[str]) -> bool:
    """Whether the path of a folder is the beginning of a path that matches a pattern."""
    if not folders:
        return True
    if segments[0] == "**":
        return _leads_on(folders[1:], segments) or _leads_on(folders, segments[1:])
    if len(segments) == 1 or not re.fullmatch(_to_regex(segments[0]), folders[0], re.IGNORECASE):
        return False
    return _leads_on(folders[1:], segments[1:])


def _to_regex(pattern: str) -> str:
    """A pattern as a regular expression over relative paths."""
    wildcards = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*|\?|\{\w+\})", pattern)
    return "".join(
        f"(?P<{piece[1:-1]}>[^/]+)"
        if _PLACEHOLDER.fullmatch(piece)
        else wildcards.get(piece, re.escape(piece))
        for piece in pieces
    )
