"""Composites of two tiles, by which a training separates the road from what surrounds it."""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictBool, model_validator
from pydantic.dataclasses import dataclass
from scipy.ndimage import distance_transform_edt, gaussian_filter

from vbp_lightning.records import RECORD, Number, Size

Kind = Literal["pasted", "seam", "removed"]
"""The types of composites: ``pasted`` replaces road tiles, the others non-road tiles."""


@dataclass(frozen=True, config=RECORD)
class Evidence:
    r"""Composites of training tiles; every tile that a composite replaces has its label.

    With the feathered road :math:`\alpha` of a road tile :math:`a` (:func:`feathered`) and
    non-road tiles :math:`b` and :math:`c`:

    - ``pasted``, road: :math:`\alpha a + (1 - \alpha) b`, the road in other surroundings;
    - ``seam``, non-road: :math:`\alpha c + (1 - \alpha) b`, the same cut without a road;
    - ``removed``, non-road: :math:`\alpha b + (1 - \alpha) a`, the surroundings without the road.

    Args:
        share: Share of the pairs of a road and a non-road tile that are replaced, in (0, 1].
            Without ``pasted`` only the non-road tiles of these pairs are, with ``pasted`` alone
            only the road tiles.
        kinds: The types of composites; those of non-road tiles take turns, so that one that is
            given twice occurs twice as often.
        until: Part of the training, from its beginning, whose epochs have composites, in (0, 1].
        dilation: Distance from the road that belongs to it, in metres, or in pixels where an image
            has no georeference.
        feather: Standard deviation of the Gaussian that softens the cut, in pixels.
        shuffled: The control: cuts along the road of another tile. What such a training gains does
            not come from the road.
    """

    share: Annotated[Number, Field(gt=0, le=1)] = 0.5
    kinds: tuple[Kind, ...] = ("pasted", "seam", "removed", "removed", "removed")
    until: Annotated[Number, Field(gt=0, le=1)] = 0.67
    dilation: Size = 1.0
    feather: Size = 1.0
    shuffled: StrictBool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kinds:
            raise ValueError("kinds=[]: name at least one of pasted, seam and removed")
        return self

    def places(self, index: NDArray[np.int64]) -> dict[Kind, NDArray[np.int64]]:
        """The places of a batch that hold composites of each type.

        Args:
            index: (N,) index of each tile within its epoch; even ones are road tiles.
        """
        pair, is_non_road = np.divmod(index, 2)
        before, after = np.floor(pair * self.share), np.floor((pair + 1) * self.share)
        others: list[str] = [kind for kind in self.kinds if kind != "pasted"] or [""]
        turns = np.array(others, dtype=object)[before.astype(np.int64) % len(others)]
        kinds = np.where(is_non_road, turns, "pasted")
        return {kind: np.flatnonzero((after > before) & (kinds == kind)) for kind in self.kinds}


def feathered(road: NDArray[np.bool_], reach: float, feather: float) -> NDArray[np.float32]:
    """The weight of the road in a composite.

    Args:
        road: (H, W) road pixels.
        reach: Distance from the road in pixels up to which pixels belong to it.
        feather: Standard deviation of the Gaussian, in pixels.

    Returns:
        (H, W) in [0, 1].
    """
    near = distance_transform_edt(~road) <= reach if road.any() else road
    weight: NDArray[np.float32] = gaussian_filter(near.astype(np.float32), feather)
    return weight
