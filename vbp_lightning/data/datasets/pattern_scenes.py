"""Images with road masks or vector labels that are paired by patterns for their paths."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import StrictStr, model_validator
from pydantic.dataclasses import dataclass

from vbp_lightning.data.datasets.file_pattern import VECTOR_SUFFIXES, FilePattern, Found
from vbp_lightning.data.datasets.listing import is_file, is_folder, why_no_folder
from vbp_lightning.data.datasets.scene import (
    USUAL_SPLITS,
    DataError,
    RoadClasses,
    RoadWidths,
    Scene,
    Split,
    VectorLabels,
)
from vbp_lightning.data.datasets.virtual_path import SourcePath, VirtualPath, below
from vbp_lightning.records import RECORD, Count

_Pair = tuple[dict[str, str], Path, Path | VectorLabels]
"""Values of the placeholders, image, labels."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, config=RECORD)
class PatternScenes:
    """Images and their labels, paired by the placeholders of two patterns.

    A pattern is a path with ``*`` for anything within a name, ``**/`` for any folders, and
    placeholders: ``{split}`` is the folder of a split; every other one, such as ``{name}``, is a
    part of the scene's name. An image and its labels agree in the placeholders of the labels.

    Args:
        root: The folder that the patterns begin in.
        images: Pattern of the images, such as ``images/{name}.*`` or ``{split}/sat/{name}.tif*``.
        masks: Pattern of the road masks.
        labels: Vector files instead of road masks: one file for all images, a pattern, or several
            patterns of which the first that has a file for an image counts.
        layer: Layer of the vector files; None for the only one that can hold roads.
        where: Which features are roads, as an SQL condition on their columns; None for all.
        widths: How wide lines are.
        classes: Which features are roads that an image shows, by their class and their tags; None
            for all.
        unlabelled: Images without vector labels: ``error`` reports them, ``skip`` leaves them out
            and counts them, ``no_road`` treats them as free of roads.
        splits: The split of each value of ``{split}``; folders of other values are not read.
            None for the usual names, such as ``valid`` for val.
        white_area: Connected white areas of at least this many saturated pixels are nodata; 0 for
            none.
    """

    root: SourcePath
    images: StrictStr = "images/{name}.*"
    masks: StrictStr = "masks/{name}.*"
    labels: tuple[StrictStr, ...] | StrictStr | None = None
    layer: StrictStr | None = None
    where: StrictStr | None = None
    widths: RoadWidths = RoadWidths()
    classes: RoadClasses | None = None
    unlabelled: Literal["error", "skip", "no_road"] = "error"
    splits: Mapping[StrictStr, Split] | None = None
    white_area: Count = 0

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        lines = []
        names = FilePattern(self.images).names
        patterns = [("labels", pattern) for pattern in self._vector_patterns]
        for setting, pattern in [("images", self.images), *(patterns or [("masks", self.masks)])]:
            own, is_named = FilePattern(pattern).names, FilePattern(pattern).is_remote_file
            unknown = [f"{{{name}}}" for name in own if name not in names]
            if not (set(own) - {"split"} or setting == "labels" or is_named):
                lines.append(f"{setting}={pattern}: needs a placeholder for the name, as {{name}}")
            if len(set(own)) < len(own):
                lines.append(f"{setting}={pattern}: holds a placeholder twice: give each once")
            if unknown:
                lines.append(
                    f"{setting}={pattern}: holds {', '.join(unknown)}, which data.source.images="
                    f"{self.images} lacks: put it into both or into neither"
                )
        if lines:
            raise ValueError("\n".join(lines))
        return self

    @property
    def _vector_patterns(self) -> tuple[str, ...]:
        if self.labels is None:
            return ()
        return (self.labels,) if isinstance(self.labels, str) else self.labels

    def __call__(self) -> list[Scene]:
        """Finds the scenes.

        An image without a road mask, or a road mask without an image, yields a scene whose missing
        file is named where it is expected, so that reading reports it along with all other errors.

        Returns:
            Scenes, by split and name.

        Raises:
            DataError: The root is missing or holds no scene, an image has no vector labels or
                several, or vector labels have no image; one line for each error.
        """
        if not is_folder(self.root, "data.root"):
            raise DataError(why_no_folder(self.root, "data.root"))
        splits = USUAL_SPLITS if self.splits is None else self.splits
        masks = self._files("masks") if self.labels is None else []
        # The pattern of the images may match road masks too, as *.png matches a_mask.png.
        taken = {path for _, path in masks}
        images = [item for item in self._files("images") if item[1] not in taken]
        if not images:
            raise DataError(
                f"{self.root}: holds no image {self.images} (data.source.images): set data.root to "
                "the folder that the pattern begins in"
            )
        by_masks = self.labels is None
        paired = self._with_masks(images, masks) if by_masks else self._with_vectors(images)
        pairs = [pair for pair in paired if pair[0].get("split") in {None, *splits}]
        order = list(splits)
        pairs.sort(key=lambda pair: (order.index(pair[0].get("split", order[0])), _name(*pair[:2])))
        # The folders of different splits may hold scenes of the same name.
        folders = Counter(
            name for name, _ in {(_name(*pair[:2]), pair[0].get("split")) for pair in pairs}
        )
        return [
            Scene(
                f"{values['split']}/{name}" if folders[name] > 1 else name,
                image,
                labels,
                splits.get(values.get("split", "")),
                self.white_area,
            )
            for values, image, labels in pairs
            for name in [_name(values, image)]
        ]

    def _files(self, setting: Literal["images", "masks"]) -> list[Found]:
        pattern = FilePattern(getattr(self, setting), VECTOR_SUFFIXES)
        return pattern.find(self.root, f"data.source.{setting}")

    def _with_masks(self, images: Sequence[Found], masks: Sequence[Found]) -> list[_Pair]:
        """Pairs images and road masks; the path of a missing file follows from its pattern."""
        image_pattern, pattern = FilePattern(self.images), FilePattern(self.masks)
        by_key = pattern.by_key(masks)
        keys = {pattern.key(values) for values, _ in images}
        pairs: list[_Pair] = [
            (values, image, mask)
            for values, image in images
            for mask in by_key.get(pattern.key(values), [pattern.path(self.root, values)])
        ]
        return pairs + [
            (values, image_pattern.path(self.root, values), mask)
            for values, mask in masks
            if pattern.key(values) not in keys
        ]

    def _with_vectors(self, images: Sequence[Found]) -> list[_Pair]:
        """Pairs images and vector files."""
        patterns = [FilePattern(pattern) for pattern in self._vector_patterns]
        found = [
            (each, each.by_key(each.find(self.root, "data.source.labels")))
            for each in patterns
            if each.names
        ]
        pairs: list[_Pair] = []
        lines, missing = [], []
        why_not = lru_cache(_why_no_vector_file)  # one file may serve all images
        for values, image in images:
            files = [below(self.root, each.pattern) for each in patterns if not each.names]
            for pattern, by_key in found:
                files = files or by_key.get(pattern.key(values), [])
            if len(files) > 1:
                lines.append(
                    f"{', '.join(map(str, files))}: several vector files are called "
                    f"{_name(values, image)} (data.source.labels): name one type of file, as in "
                    "roads/{name}.shp"
                )
            elif files and (why := why_not(files[0])):
                raise DataError(f"{files[0]}: {why} (data.source.labels)")
            elif files or self.unlabelled == "no_road":
                file = files[0] if files else None
                vectors = VectorLabels(file, self.layer, self.where, self.widths, self.classes)
                pairs.append((values, image, vectors))
            else:
                missing.append((values, image))
        if self.unlabelled == "error":
            lines += [
                f"{image}: has no vector labels: put them at {patterns[-1].path(self.root, values)}"
                " or remove the image (data.source.labels)"
                for values, image in missing
            ]
        elif missing:
            _log.warning(
                "%d images have no label file and are left out, %s among them "
                "(data.source.unlabelled=no_road treats them as free of roads)",
                len(missing),
                missing[0][1],
            )
        for pattern, by_key in found:
            orphans = by_key.keys() - {pattern.key(values) for values, _ in images}
            lines += [
                f"{file}: has no image {self.images}: add it or remove the labels (data.root)"
                for key in sorted(orphans)
                for file in by_key[key]
            ]
        if lines:
            raise DataError(*lines)
        return pairs


def _why_no_vector_file(path: Path) -> str | None:
    """Returns why a path is no vector file, or None if it may be one."""
    if is_file(path, "data.source.labels"):
        return None
    if not path.is_dir():
        return "there is no such vector file: give its name"
    if isinstance(path, VirtualPath):
        return "is a folder: name the vector file in it, as in zip://ARCHIVE.zip!roads.shp"
    is_geodatabase = path.suffix.lower() == ".gdb"
    return None if is_geodatabase else "is a folder: name a file in it, as in roads/{name}.shp"


def _name(values: Mapping[str, str], image: Path) -> str:
    """The name of a scene by the values of the placeholders; without any, that of its image."""
    return "_".join(value for name, value in values.items() if name != "split") or image.stem
