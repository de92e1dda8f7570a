"""Images with one label each, listed in a CSV."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from vbp_lightning.data.datasets.listing import files_below, is_folder, why_no_folder
from vbp_lightning.data.datasets.scene import USUAL_SPLITS, DataError, ImageLabel, Scene, Split
from vbp_lightning.data.datasets.text_table import read_text_table
from vbp_lightning.data.datasets.virtual_path import SourcePath, below
from vbp_lightning.records import RECORD, PositiveCount

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
"""Suffixes of images; of two files with the same stem the first in this order is taken."""

_SHOWN = 5
"""Errors of one type that are listed; a wrong column would give one for each line."""


@dataclass(frozen=True, config=RECORD)
class LabelledImages:
    """Images that are road or not as a whole: a CSV lists them with a label or with tags.

    Args:
        root: The folder that ``table`` and ``images`` begin in.
        table: The CSV.
        images: Folder of the images.
        image_column: Column of the file names, with or without a suffix.
        label_column: Column of the labels or tags.
        road: Values that mean road: one of several tags separated by spaces, or the whole label.
        split_column: Column that names the split; None draws it.
        splits: The split of each value of that column; None for the usual names.
        fit: ``crop`` gives every tile of an image its label; ``resize`` makes each image one tile.
        tile_size: Side in pixels that ``resize`` makes; the data module's tile size.
    """

    root: SourcePath
    table: StrictStr = "train.csv"
    images: StrictStr = "train"
    image_column: StrictStr = "image_name"
    label_column: StrictStr = "tags"
    road: tuple[StrictStr | StrictInt, ...] | StrictStr | StrictInt = ("road",)
    split_column: StrictStr | None = None
    splits: Mapping[StrictStr, Split] | None = None
    fit: Literal["crop", "resize"] = "crop"
    tile_size: PositiveCount = 96

    def __call__(self) -> list[Scene]:
        """Finds the scenes, in the order of the CSV.

        Raises:
            DataError: The CSV cannot be used, or lines of it are wrong; one line for each error.
        """
        path, folder = below(self.root, self.table), below(self.root, self.images)
        rows = self._rows(path)
        splits = USUAL_SPLITS if self.splits is None else self.splits
        listed = self.road if isinstance(self.road, tuple) else (self.road,)
        road = {str(value) for value in listed}
        present = _images_in(folder)
        names, labels = rows[self.image_column], rows[self.label_column]
        scenes: list[Scene] = []
        errors: dict[str, list[str]] = {"split": [], "label": [], "image": [], "twice": []}
        for number, (name, label) in enumerate(zip(names, labels, strict=True), 2):
            split: Split | None = None
            if self.split_column is not None:
                value = rows[self.split_column][number - 2]
                split = splits.get(value)
                if split is None:
                    errors["split"].append(
                        f"{path}: line {number} says split {value!r} (data.source.split_column): "
                        "map it with data.source.splits"
                    )
            if not name or not label:
                errors["label"].append(
                    f"{path}: line {number} has no {'label' if name else 'image'} "
                    "(data.source.label_column, data.source.image_column): fill it in or remove it"
                )
            elif name not in present:
                errors["image"].append(
                    f"{folder / name}: is listed in line {number} of {path}, but there is no such "
                    "image (data.source.images): add it or remove the line"
                )
            else:
                is_road = label in road or not road.isdisjoint(label.split())
                resize = self.tile_size if self.fit == "resize" else None
                scenes.append(Scene(name, present[name], ImageLabel(is_road), split, resize=resize))
        errors["twice"] = [
            f"{path}: lists {name} several times (data.source.table): keep one line of each"
            for name in dict.fromkeys(names[names.duplicated() & names.isin(list(present))])
        ]
        lines = []
        for of_type in errors.values():
            lines += of_type[:_SHOWN]
            if len(of_type) > _SHOWN:
                lines.append(f"{path}: and {len(of_type) - _SHOWN} more lines like these")
        if lines:
            raise DataError(*lines)
        return scenes

    def _rows(self, path: Path) -> "pd.DataFrame":
        """The lines of the CSV as text without spaces around it.

        Raises:
            DataError: It is missing, no CSV, empty, or lacks a column.
        """
        rows = read_text_table(path, "data.source.table", "set it, and data.root")
        needed = {"image_column": self.image_column, "label_column": self.label_column}
        if self.split_column is not None:
            needed["split_column"] = self.split_column
        lines = [
            f"{path}: has no column {column} (data.source.{key}): its columns are "
            f"{', '.join(rows.columns)}"
            for key, column in needed.items()
            if column not in rows
        ]
        if not lines and rows.empty:
            lines = [f"{path}: lists no image (data.source.table): give a CSV with lines"]
        if lines:
            raise DataError(*lines)
        return rows.apply(lambda column: column.str.strip())


def _images_in(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names, with and without their suffixes.

    One listing takes less time than asking the file system for each of many thousand lines.
    """
    if not is_folder(folder, "data.source.images"):
        raise DataError(why_no_folder(folder, "data.source.images"))
    listed = files_below(folder, "data.source.images")
    files = [file for file in listed if file.suffix.lower() in _SUFFIXES]
    files.sort(key=lambda file: (-_SUFFIXES.index(file.suffix.lower()), file))
    found = {file.with_suffix("").as_posix(): folder / file for file in files}
    return found | {file.as_posix(): folder / file for file in files}
