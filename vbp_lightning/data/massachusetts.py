"""The layout of the Massachusetts Roads dataset."""

from dataclasses import dataclass
from pathlib import Path

from vbp_lightning.data.scenes import DataError, Scene, Split

_FOLDERS: dict[str, Split] = {"train": "train", "valid": "val", "test": "test"}

_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class MassachusettsScenes:
    """Scenes as ``{train,valid,test}/{sat/*.tiff,map/*.tif}``, split by their folders.

    The layout of Mnih, *Machine Learning for Aerial Image Labeling* (PhD thesis, Toronto, 2013);
    any imagery that is put into it can be read. Image and mask share their name up to the suffix,
    ``.tif`` or ``.tiff``. Where a flight did not reach, the scenes are white, and the masks show
    roads all the same.

    In 244 crops of 400 × 400 px, two scenes have such gaps, of 5184 and 441 connected saturated
    pixels, and every other saturated area has 4 pixels at most: roofs and cars.

    Args:
        root: The folder that holds ``train``, ``valid`` and ``test``.
        white_area: Connected white areas holding at least this many saturated pixels are missing
            imagery; 0 where white is white, as in other imagery of this layout.
    """

    root: Path | str
    white_area: int = 256

    def __call__(self) -> list[Scene]:
        """Finds the scenes.

        An image without a mask, or a mask without an image, yields a scene whose missing file is
        named where it is expected, so that reading reports it along with all other faults.

        Returns:
            Scenes, by split and name.

        Raises:
            DataError: The root is missing or holds no scene.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(
                f"{root}: is not a folder: set data.root to the one that holds train, valid, test"
            )
        scenes = [scene for folder in _FOLDERS for scene in self._scenes_of(root / folder)]
        if not scenes:
            raise DataError(
                f"{root}: holds no scene: data.root needs "
                "{train,valid,test}/sat/*.tiff and {train,valid,test}/map/*.tif"
            )
        return scenes

    def _scenes_of(self, folder: Path) -> list[Scene]:
        images, masks = _by_stem(folder / "sat"), _by_stem(folder / "map")
        # Two files of one stem give two scenes of one name, which is reported.
        pairs = [
            (image, mask)
            for stem in sorted(images.keys() | masks.keys())
            for image in images.get(stem, [folder / "sat" / f"{stem}.tiff"])
            for mask in masks.get(stem, [folder / "map" / f"{stem}.tif"])
        ]
        return [
            Scene(image.stem, image, mask, _FOLDERS[folder.name], self.white_area)
            for image, mask in pairs
        ]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The GeoTIFFs of a folder by their name up to the suffix, hidden files left out."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found
