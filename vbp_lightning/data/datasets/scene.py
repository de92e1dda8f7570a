"""The scene record, the types of labels that a scene can have, and the error of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass as record

from vbp_lightning.errors import UserError, plain
from vbp_lightning.records import RECORD, Positive

Split: TypeAlias = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")

USUAL_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""The split by the usual names of folders and column values."""


class DataError(UserError):
    """A data set cannot be used: one line for each error that was found."""


@record(frozen=True, config=RECORD)
class RoadWidths:
    """How wide the road of a line is, in metres on the ground.

    Args:
        default: Width of lines whose width does not follow from the attribute.
        attribute: The column of the vector file that decides; of several, the first that the file
            has. None for the same width everywhere.
        table: Width by value of the attribute, as OSM's highway classes need it.
        per_unit: Metres for each unit of a numeric attribute that the table does not list: 3.5
            for lane counts, 1 for widths in metres; None to use the default.
    """

    default: Positive = 6.0
    attribute: tuple[StrictStr, ...] | StrictStr | None = None
    table: Mapping[StrictStr | StrictInt, Positive] | None = None
    per_unit: Positive | None = None

    @model_validator(mode="after")
    def _check_attribute(self) -> Self:
        if self.attribute is None and (self.table or self.per_unit):
            raise ValueError("attribute: is not set, but a table or per_unit is: name their column")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of ``attribute``."""
        return _as_tuple(self.attribute)

    def of(self, value: object) -> float:
        """Width in metres by a value of the attribute; the default if it is missing or invalid."""
        if value is None or value != value:  # a missing number is read as NaN
            return self.default
        name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        table = {str(key): width for key, width in (self.table or {}).items()}
        if name in table:
            return float(table[name])
        if self.per_unit is not None:
            try:
                units = float(name)
            except ValueError:
                return self.default
            if 0 < units < inf:
                return units * self.per_unit
        return self.default


@record(frozen=True, config=RECORD)
class RoadClasses:
    """Which features of a vector file are roads that an image shows.

    Args:
        attribute: The column of the class, such as ``highway``; of several, the first that the
            file has.
        values: The classes that are roads.
        hidden: Tags of features that no image shows: ``tunnel`` for any value but no,
            ``location=underground`` for one value. A tag is a column, or one of the ``other_tags``
            in which GDAL gives those of OpenStreetMap; columns may be missing.
    """

    attribute: tuple[StrictStr, ...] | StrictStr
    values: tuple[StrictStr, ...]
    hidden: tuple[StrictStr, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of ``attribute``."""
        return _as_tuple(self.attribute)


def _as_tuple(names: tuple[str, ...] | str | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()


@dataclass(frozen=True)
class VectorLabels:
    """Roads of a scene as vectors.

    Args:
        path: A vector file that GDAL opens; None where the scene is known to have no road.
        layer: Name of the layer; None for the only one that can hold roads.
        where: Which features are roads, as an SQL condition on their columns; None for all.
        widths: How wide lines are; areas are taken as they are.
        classes: Which of them an image shows, by class and tags; None for all.
    """

    path: Path | None
    layer: str | None = None
    where: str | None = None
    widths: RoadWidths = field(default_factory=RoadWidths)
    classes: RoadClasses | None = None


@dataclass(frozen=True)
class ImageLabel:
    """One label for a whole image.

    Args:
        is_road: Whether it shows road.
    """

    is_road: bool


@dataclass(frozen=True)
class Scene:
    """One raster with its labels.

    Args:
        name: Unique name in the data set; control characters are replaced by escapes.
        image: The raster, any number of bands.
        labels: A road mask (a raster file), vectors, or one label for all of it.
        split: The split of the scene; None to draw it.
        white_area: Connected white areas with at least this many saturated pixels are nodata; 0
            for none.
        resize: Side in pixels that the image is resized to, regardless of its shape; None for no
            resizing.
    """

    name: str
    image: Path
    labels: Path | VectorLabels | ImageLabel
    split: Split | None = None
    white_area: int = 0
    resize: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", plain(self.name))
