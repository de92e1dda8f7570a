"""Images with one label each, listed in a CSV."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vbp_lightning.data.datasets.scene import DataError, ImageLabel, Scene, Split
from vbp_lightning.data.datasets.split_names import split_names

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")

_SHOWN = 5
"""Faults of a kind that are listed one by one; a wrong column makes one a line."""


@dataclass(frozen=True)
class LabelledImages:
    """Images that are road or not as a whole: a CSV lists them with a label or with tags.

    Args:
        root: The folder that ``table`` and ``images`` begin in.
        table: The CSV.
        images: Folder of the images.
        image_column: Column of the file names, with or without a suffix.
        label_column: Column of the labels or tags.
        road: Values that mean road: a tag among several that spaces part, or the whole label.
        split_column: Column that names the split; None draws it.
        splits: The split that each of its values stands for; None knows the usual names.
        fit: ``crop`` gives every tile of an image its label; ``resize`` makes each image one tile.
        tile_size: Side in pixels that ``resize`` makes; the data module's tile size.
        suffixes: Tried where a file name has none.
    """

    root: Path | str
    table: str = "train.csv"
    images: str = "train"
    image_column: str = "image_name"
    label_column: str = "tags"
    road: Sequence[str | int] | str | int = ("road",)
    split_column: str | None = None
    splits: Mapping[str, str] | None = None
    fit: Literal["crop", "resize"] = "crop"
    tile_size: int = 96
    suffixes: Sequence[str] = _SUFFIXES

    def __call__(self) -> list[Scene]:
        """Finds the scenes, in the order of the CSV.

        Raises:
            DataError: The CSV or a setting cannot be used; one line for each fault.
        """
        root = Path(self.root)
        path = root / self.table
        if self.fit not in ("crop", "resize"):
            raise DataError(f"data.source.fit={self.fit}: must be crop or resize")
        names = split_names(self.splits)
        rows = self._rows(path)
        listed = [self.road] if isinstance(self.road, str | int) else self.road
        road = {str(value) for value in listed}
        present = self._files(root / self.images)
        scenes: list[Scene] = []
        errors: dict[str, list[str]] = {}
        for number, row in enumerate(rows, 2):
            name, label = (row[self.image_column] or "").strip(), row[self.label_column]
            split: Split | None = None
            if self.split_column is not None:
                split = names.get((row[self.split_column] or "").strip())
                if split is None:
                    errors.setdefault("split", []).append(
                        f"{path}: line {number} says split {row[self.split_column]!r} "
                        "(data.source.split_column): map it with data.source.splits"
                    )
            if not name or label is None or not label.strip():
                errors.setdefault("label", []).append(
                    f"{path}: line {number} has no {'label' if name else 'image'} "
                    "(data.source.label_column, data.source.image_column): fill it in or remove it"
                )
                continue
            image = present.get(name)
            if image is None:
                errors.setdefault("image", []).append(
                    f"{root / self.images / name}: is listed in line {number} of {path}, but there "
                    "is no such image (data.source.images): add it or remove the line"
                )
                continue
            is_road = label.strip() in road or not road.isdisjoint(label.split())
            resize = self.tile_size if self.fit == "resize" else None
            scenes.append(Scene(name, image, ImageLabel(is_road), split, resize=resize))
        doubled = [name for name, count in Counter(s.name for s in scenes).items() if count > 1]
        if doubled:
            errors["twice"] = [
                f"{path}: lists {name} several times (data.source.table): keep one line of each"
                for name in doubled
            ]
        lines = []
        for kind in errors.values():
            lines += kind[:_SHOWN]
            if len(kind) > _SHOWN:
                lines.append(f"{path}: and {len(kind) - _SHOWN} more lines like these")
        if lines:
            raise DataError(*lines)
        return scenes

    def _rows(self, path: Path) -> list[dict[str, str]]:
        """The lines of the CSV.

        Raises:
            DataError: It is missing, no CSV, empty, or lacks a column.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                columns = list(reader.fieldnames or [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path}: cannot be read as a CSV ({error}): set data.root and data.source.table"
            ) from error
        needed = {"image_column": self.image_column, "label_column": self.label_column}
        if self.split_column is not None:
            needed["split_column"] = self.split_column
        lines = [
            f"{path}: has no column {column} (data.source.{key}): its columns are "
            f"{', '.join(columns) or 'none'}"
            for key, column in needed.items()
            if column not in columns
        ]
        if not lines and not rows:
            lines = [f"{path}: lists no image (data.source.table): give a CSV with lines"]
        if lines:
            raise DataError(*lines)
        return rows

    def _files(self, folder: Path) -> dict[str, Path]:
        """The images of a folder by their names, with and without their suffixes.

        One listing instead of a question to the file system for each of many thousand lines.
        """
        found: dict[str, Path] = {}
        suffixes = [suffix.lower() for suffix in self.suffixes]
        files = sorted(folder.glob("**/*")) if folder.is_dir() else []
        usable = [file for file in files if file.suffix.lower() in suffixes and file.is_file()]
        for file in sorted(usable, key=lambda file: -suffixes.index(file.suffix.lower())):
            relative = file.relative_to(folder)
            found[relative.with_suffix("").as_posix()] = file
        for file in usable:
            found[file.relative_to(folder).as_posix()] = file
        return found
