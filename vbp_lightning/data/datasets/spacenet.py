"""The layout of the SpaceNet road challenges, 3 and 5."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vbp_lightning.data.datasets.scene import DataError, RoadWidths, Scene, VectorLabels

_FOLDERS = ("geojson_roads_speed", "geojson_roads")
"""Where labels lie; the newer ones, with lanes and speeds, first."""

_NUMBER = re.compile(r"(img|chip)(\d+)$")

_SUFFIXES = (".tif", ".tiff")

_log = logging.getLogger(__name__)

_WIDTHS = RoadWidths()


@dataclass(frozen=True)
class SpaceNetScenes:
    """Scenes as ``AOI_*/<imagery>/*.tif`` with ``AOI_*/geojson_roads[_speed]/*.geojson``.

    The layout of Van Etten, Lindenbaum and Bacastow, "SpaceNet: a remote sensing dataset and
    challenge series" (2018, arXiv 1807.01232), challenges 3 and 5. Image and labels share the end
    of their names, ``_img601`` or ``_chip601``.

    Args:
        root: The folder that holds ``AOI_2_Vegas`` and its like, or one of them.
        imagery: Which images: the folder's name, ``PS-RGB``, ``PS-MS``, ``MS`` or ``PAN``.
        labels: Folder of the labels, ``geojson_roads`` or ``geojson_roads_speed``; None for the
            latter where an area has it, else the former.
        unlabelled: What becomes of images without a label file: ``skip`` leaves them out, and says
            how many; ``no_road`` takes them for free of roads.
        widths: How wide lines are.
    """

    root: Path | str
    imagery: str = "PS-RGB"
    labels: str | None = None
    unlabelled: Literal["skip", "no_road"] = "skip"
    widths: RoadWidths = _WIDTHS

    def __call__(self) -> list[Scene]:
        """Finds the scenes, named after area and number.

        Raises:
            DataError: The root is missing or holds no scene, labels have no image, or the settings
                make no sense; one line for each fault.
        """
        root = Path(self.root)
        lines = self.widths.errors()
        if self.unlabelled not in ("skip", "no_road"):
            lines.append(f"data.source.unlabelled={self.unlabelled}: must be skip or no_road")
        if lines:
            raise DataError(*lines)
        if not root.is_dir():
            raise DataError(f"{root}: is not a folder: set data.root to the one that holds AOI_*")
        areas = [root] if root.name.startswith("AOI_") else sorted(root.glob("AOI_*"))
        scenes: list[Scene] = []
        skipped: list[Path] = []
        for area in areas:
            images = _by_number(area / self.imagery, _SUFFIXES)
            labels = _by_number(self._labels_of(area), (".geojson",))
            lines += [
                f"{labels[number]}: has no image in {area / self.imagery}: add it or take the "
                "labels away (data.root)"
                for number in sorted(labels.keys() - images.keys())
                if images
            ]
            for number, image in images.items():
                if number not in labels and self.unlabelled == "skip":
                    skipped.append(image)
                    continue
                roads = VectorLabels(labels.get(number), widths=self.widths)
                scenes.append(Scene(f"{area.name}_{number}", image, roads))
        if lines:
            raise DataError(*lines)
        if not scenes:
            raise DataError(
                f"{root}: holds no labelled scene: data.root needs AOI_*/{self.imagery}/*.tif "
                f"(data.source.imagery) and AOI_*/{'/ or AOI_*/'.join(_FOLDERS)}/"
            )
        if skipped:
            _log.warning(
                "%d images have no label file and are left out, %s among them "
                "(data.source.unlabelled=no_road takes them for free of roads)",
                len(skipped),
                skipped[0],
            )
        return scenes

    def _labels_of(self, area: Path) -> Path:
        if self.labels is not None:
            return area / self.labels
        return next(
            (area / name for name in _FOLDERS if (area / name).is_dir()), area / _FOLDERS[-1]
        )


def _by_number(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by the number at the end of their names.

    Raises:
        DataError: Two files bear the same number, or one bears none.
    """
    found: dict[str, Path] = {}
    lines = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        match = _NUMBER.search(path.stem)
        if match is None:
            lines.append(f"{path}: its name does not end in imgN or chipN (data.root): rename it")
        elif match[0] in found:
            lines.append(f"{path}, {found[match[0]]}: have the same number (data.root): remove one")
        else:
            found[match[0]] = path
    if lines:
        raise DataError(*lines)
    return found
