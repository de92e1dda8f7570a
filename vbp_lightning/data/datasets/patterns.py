"""File patterns with names in them: ``{split}/sat/{name}.tif*``."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from vbp_lightning.data.datasets.scene import DataError

_COMPANIONS = {
    *(".aux", ".xml", ".ovr", ".msk", ".prj", ".cpg", ".txt", ".md", ".csv", ".json", ".html"),
    *(".hdr", ".dbf", ".shx", ".qix", ".sbn", ".sbx", ".qmd", ".ind", ".qpj", ".qml", ".sld"),
    *(".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".pgw", ".pngw", ".wld", ".tab", ".rpb", ".imd"),
    *(".yaml", ".yml", ".log", ".pdf", ".zip", ".gz", ".tar", ".db", ".ini", ".py", ".sh"),
}
"""What lies beside images and vector files and is neither."""

VECTOR_SUFFIXES = frozenset(
    {".geojson", ".gpkg", ".shp", ".fgb", ".kml", ".kmz", ".gml", ".gpx", ".parquet", ".sqlite"}
)
"""Vector files, which are no images."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class FilePattern:
    """A pattern for paths below a folder.

    ``*`` and ``?`` match within one folder's name, ``**`` any number of folders, ``{name}`` and
    ``{split}`` a part of one that is remembered; ``{name}`` may hold anything but a slash. Capital
    and small letters are the same.

    Args:
        pattern: Relative, with slashes.
        key: The config key, for error messages.
        others: Suffixes of files that are something else: like companions of images, they are
            left out unless the pattern ends with them.

    Raises:
        DataError: There is no ``{name}``, or another placeholder than these two.
    """

    def __init__(self, pattern: str, key: str, others: Collection[str] = ()) -> None:
        self.pattern = pattern
        self._left_out = {*_COMPANIONS, *others} - {Path(pattern).suffix.lower()}
        names = _PLACEHOLDER.findall(pattern)
        if names.count("name") != 1 or set(names) - {"name", "split"} or len(names) > 2:
            raise DataError(
                f"{key}={pattern}: needs {{name}} once, and may hold {{split}} once: the same name "
                "pairs an image with its labels"
            )
        self._regex = re.compile(_to_regex(pattern), re.IGNORECASE)
        self._depth = None if "**" in pattern else pattern.count("/")

    def find(self, root: Path) -> dict[tuple[str, str], list[Path]]:
        """Files below a folder by split (empty where the pattern has none) and name.

        Args:
            root: The folder; hidden files and folders in it are left out, and so are world files,
                overviews and other companions, and the files that are something else.

        Returns:
            In the order of their keys.
        """
        found: dict[tuple[str, str], list[Path]] = {}
        for folder, inner, files in os.walk(root, followlinks=True):
            relative = Path(folder).relative_to(root)
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            if self._depth is not None and len(relative.parts) >= self._depth:
                inner.clear()
            for file in sorted(files):
                if file.startswith(".") or Path(file).suffix.lower() in self._left_out:
                    continue
                if match := self._regex.fullmatch((relative / file).as_posix()):
                    parts = match.groupdict()
                    key = parts.get("split") or "", parts["name"]
                    found.setdefault(key, []).append(Path(folder) / file)
        return dict(sorted(found.items()))

    def example(self, root: Path, split: str, name: str) -> Path:
        """Where a file of a name would be looked for."""
        filled = self.pattern.replace("{name}", name).replace("{split}", split)
        return root / filled


def _to_regex(pattern: str) -> str:
    """A pattern as a regular expression over relative paths."""
    parts = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}
    parts |= {"{name}": "(?P<name>[^/]+)", "{split}": "(?P<split>[^/]+)"}
    pieces = re.split(r"(\*\*/|\*|\?|\{\w+\})", pattern)
    return "".join(parts.get(piece, re.escape(piece)) for piece in pieces)
