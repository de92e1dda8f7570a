"""What all attribution methods share: settings, checks of the inputs, chunks and the result."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import StrictInt
from torch import Tensor, nn

from vbp_lightning.attribution.scores import (
    CHUNK,
    Progress,
    Target,
    classes_of,
    images_of,
    part_of,
)
from vbp_lightning.errors import one_line
from vbp_lightning.graph.exporting import UnsupportedNetworkError, shared_copy
from vbp_lightning.graph.network_graph import NetworkGraph, graph_of
from vbp_lightning.records import PositiveCount, argument_errors, one_of

Rotations = Annotated[StrictInt, one_of((1, 2, 4, 8))]
"""How many views of a square image are averaged, see :class:`Method`."""

Images = Tensor | npt.NDArray[np.floating]
"""``(N, C, H, W)`` floating point."""


@dataclass(eq=False)
class Method(ABC):
    """An attribution method: a network and the settings, which are the fields of the class.

    A method defines :meth:`maps`. Its settings are checked by their annotations, such as
    ``PositiveCount`` or a ``Literal``. Pickles and copies hold the network and the settings only.

    With several ``rotations``, the map is the mean over rotated images, each rotated back. A
    network that was trained on rotated images should respond equally to each; differences are
    noise, such as the grid of the strides, which the mean reduces. If no class is given, the one
    that is explained is the most likely of each rotated image.

    Args:
        model: The network. It is run in eval mode, but not changed, and may run in other threads at
            the same time.
        rotations: 1 for the image itself, 2 to add a rotation by 180°, 4 for multiples of 90°, 8 to
            add the mirror images of these. Images that are not square are rotated by 180° only.
        chunk: Samples per chunk.

    Raises:
        ValueError: A setting has a wrong type or is out of range; one line for each.
    """

    model: nn.Module = field(repr=False)
    _: KW_ONLY
    rotations: Rotations = 1
    chunk: PositiveCount = CHUNK

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        if lines := argument_errors("", type(self), given, "model"):
            raise ValueError("\n".join(lines))

    @abstractmethod
    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The saliency maps ``(n, 1, H, W)`` of some images ``(n, C, H, W)``."""

    def attribute(
        self, inputs: Images, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The saliency map of each sample, which is independent of the rest of the batch.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)`` in float32, or float64 for such inputs.

        Raises:
            UnsupportedNetworkError: The method cannot explain this network.
            ValueError: The inputs are not a batch of floating-point images, or a target is out of
                range.
        """
        return self.in_chunks(self.maps, inputs, target, progress)

    def in_chunks(
        self,
        maps: Callable[[Tensor, Target], Tensor],
        inputs: Images,
        target: Target,
        progress: Progress | None,
    ) -> Tensor:
        """Applies a function to chunks of samples, see :meth:`attribute`."""
        images = images_of(inputs, self.model)
        classes = target[1] if isinstance(target, tuple) else target
        if isinstance(classes, Tensor) and classes.ndim == 1 and len(classes) != len(images):
            raise ValueError(f"target has {len(classes)} classes for {len(images)} samples")
        exact = torch.promote_types(images.dtype, torch.float32)
        parts = [images.new_zeros((0, 1, *images.shape[2:]), dtype=exact)]
        with torch.inference_mode(mode=False), torch.no_grad():
            for start in range(0, len(images), self.portion):
                samples = slice(start, start + self.portion)
                views = self._views(images[samples])
                wanted = part_of(target, samples)
                found = [back(maps(view, wanted)).detach().to(exact) for view, back in views]
                parts.append(found[0] if len(found) == 1 else torch.stack(found).mean(0))
                if progress is not None:
                    progress(len(parts[-1]))
            return torch.cat(parts)

    def _views(self, images: Tensor) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
        """The rotated images, each with the function that rotates its map back."""
        square = images.shape[2] == images.shape[3]
        turned = min(self.rotations, 4 if square else 2)
        for mirrored in (False, True) if self.rotations == 8 else (False,):
            for turn in range(0, 4, 4 // turned):
                view = images.flip(3) if mirrored else images
                # not by 0, which copies
                yield (
                    torch.rot90(view, turn, (2, 3)) if turn else view,
                    partial(_back, turn, mirrored),
                )

    @property
    def portion(self) -> int:
        """The number of samples that are processed at once."""
        return self.chunk

    def graph(self, inputs: Tensor) -> NetworkGraph:
        """The graph of the network for images of this size, type and device."""
        return graph_of(self.model, inputs)


@dataclass(eq=False)
class CopiesMethod(Method):
    """A method that runs the network on changed copies of each image; ``chunk`` counts copies.

    It needs no graph and explains any network. One that draws random numbers in eval mode advances
    the global generators.
    """

    @property
    def portion(self) -> int:
        """One image at a time."""
        return 1

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The saliency map ``(1, 1, H, W)`` of one image; the class is that of the image itself."""
        copy = shared_copy(self.model)
        for module in copy.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.clone())  # the network may change it

        def network(images: Tensor) -> object:
            return copy(images.clone())  # the network may change its input

        named, wanted = target if isinstance(target, tuple) else (None, target)
        if not isinstance(wanted, int):
            wanted = int(classes_of(network(inputs), target))
        try:
            return self.map_of(network, inputs, wanted if named is None else (named, wanted))
        except RuntimeError as error:  # for instance if the image has no gradient
            raise UnsupportedNetworkError(
                f"{type(self).__name__} cannot explain {type(self.model).__name__}: "
                f"{one_line(error)}"
            ) from error

    @abstractmethod
    def map_of(self, network: Callable[[Tensor], object], image: Tensor, target: Target) -> Tensor:
        """The saliency map ``(1, 1, H, W)`` of an image ``(1, C, H, W)`` for one class."""


def _back(turn: int, mirrored: bool, maps: Tensor) -> Tensor:
    """Maps of a rotated image in the orientation of the image."""
    maps = torch.rot90(maps, -turn, (2, 3)) if turn else maps
    return maps.flip(3) if mirrored else maps


def enlarged(small: Tensor, images: Tensor) -> Tensor:
    """``(N, 1, h, w)`` resized to the images by bilinear interpolation."""
    exact = small.to(torch.promote_types(small.dtype, torch.float32))
    return F.interpolate(exact, size=images.shape[2:], mode="bilinear", align_corners=False)
