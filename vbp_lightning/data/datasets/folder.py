"""Images and road masks that are paired by their names."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vbp_lightning.data.datasets.patterns import VECTOR_SUFFIXES, FilePattern
from vbp_lightning.data.datasets.scene import DataError, Scene
from vbp_lightning.data.datasets.split_names import split_names


@dataclass(frozen=True)
class FolderScenes:
    """Any images and masks paired by name.

    The patterns tell where they lie: ``{name}`` in both is what a pair has in common, and
    ``{split}``, where both have it, the folder that says its split. ``*`` stands for anything
    within a name, ``**/`` for any folders.

    Args:
        root: The folder that the patterns begin in.
        images: Pattern of the images, as ``images/{name}.*`` or ``{split}/sat/{name}.tif*``.
        masks: Pattern of the road masks.
        splits: The split that each value of ``{split}`` stands for: train, val or test; those
            left out are not read.
        white_area: Connected white areas holding at least this many saturated pixels are missing
            imagery; 0 where white is white.
    """

    root: Path | str
    images: str = "images/{name}.*"
    masks: str = "masks/{name}.*"
    splits: Mapping[str, str] | None = None
    white_area: int = 0

    def __call__(self) -> list[Scene]:
        """Finds the scenes.

        An image without a mask, or a mask without an image, yields a scene whose missing file is
        named where it is expected, so that reading reports it along with all other faults.

        Returns:
            Scenes, by split and name.

        Raises:
            DataError: The root is missing or holds no scene, or the patterns make no sense.
        """
        if self.white_area < 0:
            raise DataError(
                f"data.source.white_area={self.white_area}: must be at least 0 (pixels)"
            )
        root = Path(self.root)
        image_pattern = FilePattern(self.images, "data.source.images", VECTOR_SUFFIXES)
        mask_pattern = FilePattern(self.masks, "data.source.masks", VECTOR_SUFFIXES)
        if ("{split}" in self.images) != ("{split}" in self.masks):
            raise DataError(
                f"data.source.images={self.images}, data.source.masks={self.masks}: put {{split}} "
                "into both or into neither"
            )
        if not root.is_dir():
            raise DataError(f"{root}: is not a folder: set data.root to the data set's folder")
        splits = split_names(self.splits)
        masks = mask_pattern.find(root)
        # One pattern may match the files of the other, as *.png does those of {name}_mask.png.
        taken = {path for paths in masks.values() for path in paths}
        images = {
            key: kept
            for key, paths in image_pattern.find(root).items()
            if (kept := [path for path in paths if path not in taken])
        }
        keys = [key for key in images.keys() | masks.keys() if not key[0] or key[0] in splits]
        keys.sort(key=lambda key: (_rank(key[0], splits), key))
        if not images:
            raise DataError(
                f"{root}: holds no image {self.images} (data.source.images): set data.root to the "
                "folder that the pattern begins in"
            )
        # Names may begin anew in each folder. Two files of one name in one folder give two scenes
        # of one name, which is reported.
        folders = Counter(name for _, name in keys)
        return [
            Scene(
                f"{split}/{name}" if folders[name] > 1 else name,
                image,
                mask,
                splits.get(split),
                self.white_area,
            )
            for split, name in keys
            for image in images.get((split, name), [image_pattern.example(root, split, name)])
            for mask in masks.get((split, name), [mask_pattern.example(root, split, name)])
        ]


def _rank(folder: str, splits: Mapping[str, str]) -> int:
    """Training scenes first, in the order in which the splits are listed."""
    return list(splits).index(folder) if folder in splits else len(splits)
