"""File patterns with placeholders: ``{split}/sat/{name}.tif*``."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

_COMPANIONS = {
    *(".aux", ".xml", ".ovr", ".msk", ".prj", ".cpg", ".txt", ".md", ".csv", ".json", ".html"),
    *(".hdr", ".dbf", ".shx", ".qix", ".sbn", ".sbx", ".qmd", ".ind", ".qpj", ".qml", ".sld"),
    *(".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".pgw", ".pngw", ".wld", ".tab", ".rpb", ".imd"),
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
        pattern: Relative path with slashes.
        excluded: Suffixes of files that are left out, as companions of images are, unless the
            pattern ends with them.

    Attributes:
        names: The placeholders, in their order.
    """

    def __init__(self, pattern: str, excluded: Collection[str] = ()) -> None:
        self.pattern = pattern
        self.names = tuple(_PLACEHOLDER.findall(pattern))
        self._excluded = {*_COMPANIONS, *excluded} - {Path(pattern).suffix.lower()}
        self._depth = None if "**" in pattern else pattern.count("/")

    def find(self, root: Path) -> list[Found]:
        """Finds the files below a folder.

        Args:
            root: The folder. Hidden files and folders in it are left out.

        Returns:
            The files, ordered by folder and name.
        """
        regex = re.compile(_to_regex(self.pattern), re.IGNORECASE)
        found = []
        for folder, inner, files in os.walk(root, followlinks=True):
            relative = Path(folder).relative_to(root)
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            if self._depth is not None and len(relative.parts) >= self._depth:
                inner.clear()
            for file in sorted(files):
                if file.startswith(".") or Path(file).suffix.lower() in self._excluded:
                    continue
                if match := regex.fullmatch((relative / file).as_posix()):
                    found.append((match.groupdict(), Path(folder) / file))
        return found

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
        return root / _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.pattern)


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
