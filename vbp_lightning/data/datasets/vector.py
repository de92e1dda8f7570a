"""Georeferenced images with roads in vector files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vbp_lightning.data.datasets.patterns import VECTOR_SUFFIXES, FilePattern
from vbp_lightning.data.datasets.scene import DataError, RoadWidths, Scene, VectorLabels
from vbp_lightning.data.datasets.split_names import split_names

_WIDTHS = RoadWidths()


@dataclass(frozen=True)
class VectorScenes:
    """Any georeferenced images with one vector file for all, or one for each.

    Lines are widened on the ground, areas taken as they are, points left out; the files may be in
    any CRS.

    Args:
        root: The folder that the patterns begin in.
        images: Pattern of the images, as ``images/{name}.tif``.
        labels: One vector file below ``root``, or a pattern with the images' ``{name}``.
        layer: Layer of the vector files; None for the only or first one.
        where: Which features are roads, as an SQL condition on their columns; None for all.
        widths: How wide lines are.
        splits: The split that each value of ``{split}`` in ``images`` stands for.
        white_area: Connected white areas holding at least this many saturated pixels are missing
            imagery; 0 where white is white.
    """

    root: Path | str
    images: str = "images/{name}.*"
    labels: str = "roads.geojson"
    layer: str | None = None
    where: str | None = None
    widths: RoadWidths = _WIDTHS
    splits: Mapping[str, str] | None = None
    white_area: int = 0

    def __call__(self) -> list[Scene]:
        """Finds the scenes.

        Raises:
            DataError: The root is missing or holds no scene, an image has no vector file, or the
                settings make no sense; one line for each fault.
        """
        if self.white_area < 0:
            raise DataError(
                f"data.source.white_area={self.white_area}: must be at least 0 (pixels)"
            )
        root = Path(self.root)
        pattern = FilePattern(self.images, "data.source.images", VECTOR_SUFFIXES)
        splits = split_names(self.splits)
        if lines := self.widths.errors():
            raise DataError(*lines)
        if not root.is_dir():
            raise DataError(f"{root}: is not a folder: set data.root to the data set's folder")
        images = pattern.find(root)
        if not images:
            raise DataError(
                f"{root}: holds no image {self.images} (data.source.images): set data.root to the "
                "folder that the pattern begins in"
            )
        files = self._files(root)
        scenes = []
        folders = Counter(name for _, name in images)
        for (split, name), paths in images.items():
            if split and split not in splits:
                continue
            for image in paths:
                file = (
                    files
                    if isinstance(files, Path)
                    else files.get((split if "{split}" in self.labels else "", name))
                )
                if file is None:
                    expected = FilePattern(self.labels, "").example(root, split, name)
                    lines.append(
                        f"{image}: has no vector labels: put them at {expected} or take the image "
                        "away (data.source.labels)"
                    )
                    continue
                labels = VectorLabels(file, self.layer, self.where, self.widths)
                unique = f"{split}/{name}" if folders[name] > 1 else name
                scenes.append(Scene(unique, image, labels, splits.get(split), self.white_area))
        if lines:
            raise DataError(*lines)
        return scenes

    def _files(self, root: Path) -> Path | dict[tuple[str, str], Path]:
        """The vector file of all scenes, or of each by its name."""
        if "{name}" not in self.labels:
            path = root / self.labels
            if not path.exists():
                raise DataError(
                    f"{path}: there is no such vector file: name it with data.source.labels"
                )
            return path
        found = FilePattern(self.labels, "data.source.labels").find(root)
        if lines := [
            f"{', '.join(map(str, paths))}: several vector files are called {name} "
            "(data.source.labels): name one kind of file, as in roads/{name}.shp"
            for (_, name), paths in found.items()
            if len(paths) > 1
        ]:
            raise DataError(*lines)
        return {key: paths[0] for key, paths in found.items()}
