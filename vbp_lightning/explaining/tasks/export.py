"""``task=export``: the network with its mask as one file for other programs."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from pydantic import StrictBool
from pydantic.dataclasses import dataclass
from torch import Tensor

from vbp_lightning import __version__
from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.cli import quiet_loggers
from vbp_lightning.errors import UserError, one_line
from vbp_lightning.explaining.exported_networks import SceneModel, TileModel
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.files import replacing
from vbp_lightning.models import RoadClassifier
from vbp_lightning.records import RECORD
from vbp_lightning.scene_maps.block_maps import block_maps
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.split_network import NotConvolutionalError, split_network

OUTPUTS = ("probability", "mask")
"""Names of the outputs of an ONNX model."""

METADATA = "metadata.json"
"""Name of the extra file of a torch.export archive."""

TOLERANCE = 1e-5
"""Largest difference between a file's outputs and PyTorch's; of raw masks relative to the largest
value."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Outputs = Sequence[NDArray[Any]]
"""P(road) and masks."""


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    format: Literal["onnx", "torch_export"]
    scene: StrictBool


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Writes ``tiles.onnx``, ``scene.onnx``, ``tiles.pt2`` or ``scene.pt2``.

    The file is read again and compared with PyTorch before it gets its name.

    Args:
        cfg: The composed config of ``explain.py`` with ``task=export``.
        subject: A road classifier.

    Yields:
        The file.

    Raises:
        UserError: A package is missing, the network cannot be exported, or the file gives other
            results than PyTorch.
    """
    classifier, reader = subject.classifier, subject.reader
    if classifier is None or not isinstance(reader, CutImages):
        raise UserError("task=export needs a road classifier (ckpt=RUN/checkpoints/best.ckpt)")
    missing = [each for each in _PACKAGES if find_spec(each) is None]
    if cfg.format == "onnx" and missing:
        raise UserError(
            f"format=onnx needs {', '.join(missing)}: install it with"
            " pip install 'vbp_lightning[onnx]', or give format=torch_export"
        )
    classifier = classifier.cpu()
    upsampling = cfg.upsampling.name
    model: TileModel | SceneModel
    if cfg.scene:
        model, sizes, expected = _of_scenes(classifier, reader, subject.fill, upsampling)
    else:
        model, sizes, expected = _of_tiles(classifier, reader, upsampling)
    metadata = {
        **_metadata(subject, classifier, reader),
        "input": "images" if cfg.scene else "tiles",
        "upsampling": upsampling,
    }
    suffix = "onnx" if cfg.format == "onnx" else "pt2"
    path = Path(cfg.output) / f"{'scene' if cfg.scene else 'tiles'}.{suffix}"
    write, reopened = (write_onnx, _onnx) if cfg.format == "onnx" else (write_torch, _torch)
    with replacing(path) as temporary:
        write(model.eval(), temporary, metadata)
        found = reopened(temporary)
        for number, size in enumerate(sizes):
            images = _noise(size, metadata, number)
            difference = _difference(found(images), expected(images), cfg.scene)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{path}: is not kept: for {tuple(size)} its results differ from PyTorch's by"
                    f" {difference:.1g}, more than {TOLERANCE:g} (format, upsampling): give another"
                    " format or upsampling"
                )
    yield path


def _of_tiles(
    classifier: RoadClassifier, reader: CutImages, upsampling: str
) -> tuple[TileModel, list[tuple[int, ...]], Callable[[Tensor], Outputs]]:
    """The model of tiles, sizes of batches to try, and PyTorch's results in double precision."""
    bands, side = len(reader.fill), reader.side
    model = TileModel(classifier.network, bands, side, upsampling, classifier.hparams["tta"])
    exact = deepcopy(classifier).double()

    def expected(tiles: Tensor) -> Outputs:
        masks = VisualBackProp(exact, upsampling).attribute(tiles.double())
        with torch.no_grad():
            return exact.probability(tiles.double()).numpy(), masks.numpy()

    return model, [(count, bands, side, side) for count in (1, 2, 7)], expected


def _of_scenes(
    classifier: RoadClassifier, reader: CutImages, fill: Sequence[float], upsampling: str
) -> tuple[SceneModel, list[tuple[int, ...]], Callable[[Tensor], Outputs]]:
    """The model of scenes, sizes of images to try, and the maps of ``task=scene``.

    Raises:
        UserError: The network cannot run over a whole scene at once.
    """
    bands, window, context = len(fill), reader.tile_size, reader.context
    tta = classifier.hparams["tta"]
    try:
        mapper = SeamlessMapper(
            classifier.network, bands, upsampling, tta=tta, window=window, context=context
        )
    except NotConvolutionalError as error:
        raise UserError(f"scene=true: {one_line(error)}: give scene=false") from error
    split = split_network(classifier.network, torch.empty(1, bands, reader.side, reader.side))
    model = SceneModel(split, bands, window, upsampling, context, fill, tta)

    def maps(image: NDArray[np.float32]) -> Outputs:
        shape = image.shape[1:]
        padded = np.pad(image, [(0, 0), (context, context), (context, context)])
        inside = np.pad(np.ones(shape, bool), context)
        padded[:, ~inside] = np.array(fill, np.float32)[:, None]

        def read(row: int, col: int, height: int, width: int) -> tuple[Any, Any]:
            area = np.s_[row + context :, col + context :]
            return padded[:, *area][:, :height, :width], inside[area][:height, :width]

        found = block_maps(mapper, read, shape, Block(0, 0, *shape))
        return found.probability, found.mask

    def expected(images: Tensor) -> Outputs:
        found = [maps(image) for image in images.numpy()]
        return [np.stack(each)[:, None] for each in zip(*found, strict=True)]

    step = split.step
    sides = (
        (window + step, window + step),
        (window + 3 * step, window + step),
        (2 * window, 3 * window),
    )
    return model, [(count, bands, *side) for count, side in enumerate(sides, 1)], expected


def _metadata(subject: Subject, classifier: RoadClassifier, reader: CutImages) -> dict[str, Any]:
    """What a program that uses the file has to know."""
    settings = classifier.hparams
    return {
        "vbp_lightning": __version__,
        "checkpoint_sha256": subject.fingerprint,
        "bands": (settings["imagery"] or {}).get("bands") or len(subject.fill),
        "tile_size": reader.tile_size,
        "context": reader.context,
        "classes": ["non-road", "road"],
        "threshold": float(classifier.threshold),
        "fill": list(subject.fill),
        **{name: settings[name] for name in ("mean", "std", "low", "high", "tta")},
    }


def _noise(size: Sequence[int], metadata: dict[str, Any], seed: int) -> Tensor:
    """Images of the mean and the deviation of the training imagery, coarse and fine."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.randn(*size, generator=generator)
    small = torch.randn(*size[:2], *(side // 8 for side in size[2:]), generator=generator)
    coarse = torch.nn.functional.interpolate(small, size[2:], mode="bilinear")
    mean, std = (torch.tensor(metadata[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    return mean + std * (coarse + fine / 4)


def _difference(found: Outputs, expected: Outputs, raw: bool) -> float:
    """The largest difference; infinite if the shapes or the places without a value differ."""
    largest = 0.0
    for number, (mine, other) in enumerate(zip(found, expected, strict=True)):
        if mine.shape != other.shape or not np.array_equal(np.isnan(mine), np.isnan(other)):
            return float("inf")
        scale = np.abs(other).max() if raw and number else 1
        apart = np.nan_to_num(np.abs(mine.astype(np.float64) - other)).max()
        largest = max(largest, float(apart / (scale or 1)))
    return largest


def _global_maximum(images: Tensor, output_size: Sequence[int]) -> Any:  # noqa: ANN401
    """The maximum of each channel and its place; other sizes of the operation stay as they are."""
    if any(size != 1 for size in output_size):
        return NotImplemented
    maxima, places = images.flatten(-2).max(-1)
    return maxima[..., None, None], places[..., None, None]


_DECOMPOSITIONS = {torch.ops.aten.adaptive_max_pool2d.default: _global_maximum}
"""Operations that torch 2.11 and older cannot write to ONNX."""


def _first(error: BaseException) -> BaseException:
    """The exception at the start of a chain of causes: the converter's own lists its steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _exported(model: TileModel | SceneModel) -> torch.export.ExportedProgram:
    """The operations of a model, for any number or size of its images."""
    return torch.export.export(model, (model.example,), dynamic_shapes=(model.sizes,))


def write_onnx(model: TileModel | SceneModel, path: Path, metadata: dict[str, Any]) -> None:
    """Writes an ONNX model; each entry of its metadata is JSON.

    Raises:
        UserError: An operation has no counterpart in ONNX.
    """
    try:
        with _without_notes(), torch.no_grad():
            program = torch.onnx.export(
                _exported(model).run_decompositions(_DECOMPOSITIONS),
                output_names=OUTPUTS,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of many kinds
        raise UserError(
            f"format=onnx: the network cannot be converted ({one_line(_first(error))[:200]}): give"
            " format=torch_export"
        ) from error
    assert program is not None
    program.model.metadata_props.update({key: json.dumps(each) for key, each in metadata.items()})
    program.save(path)


@contextmanager
def _without_notes() -> Iterator[None]:
    """Without the converter's progress, its advice to install torchvision, and its warnings."""
    with (
        quiet_loggers(logging.ERROR, "torch.onnx", "onnx_ir", "onnxscript"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _onnx(path: Path) -> Callable[[Tensor], Outputs]:
    """The function of an ONNX model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def outputs(images: Tensor) -> Outputs:
        found: Outputs = session.run(OUTPUTS, {given.name: images.numpy()})
        return found

    return outputs


def write_torch(model: TileModel | SceneModel, path: Path, metadata: dict[str, Any]) -> None:
    """Writes an archive of torch.export with the metadata as an extra file.

    Raises:
        UserError: The network cannot be exported.
    """
    try:
        with torch.no_grad():
            program = _exported(model)
    except Exception as error:  # of many kinds
        raise UserError(
            f"format=torch_export: the network cannot be exported ({one_line(error)[:200]})"
        ) from error
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def _torch(path: Path) -> Callable[[Tensor], Outputs]:
    """The function of an archive of torch.export."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def outputs(images: Tensor) -> Outputs:
        return [each.numpy() for each in module(images)]

    return outputs
