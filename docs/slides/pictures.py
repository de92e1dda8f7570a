"""Draws the pictures of ``docs/slides.md``, with type that the back row can read.

    python train.py seed=1
    python train.py experiment=clever_hans model=maxpool
    for mode in seamless "tiles stride=96"; do
        python explain.py task=scene ckpt=RUN/checkpoints/best.ckpt mode=$mode \
            upsampling=bilinear input=DATA/seed0_144x480px_v1/scene_042.tif \
            output=outputs/slides/${mode%% *}
    done
    python docs/slides/pictures.py RUN HANS_RUN DATA outputs/slides

RUN and HANS_RUN are the folders of the two runs, DATA is ``outputs/data/synthetic``, where the
first of them writes its procedural scenes. The pictures go to the folder of this file.
"""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from matplotlib.figure import Figure
from PIL import Image
from rasterio.vrt import WarpedVRT
from torch import Tensor, nn

from vbp_lightning import RoadClassifier, VisualBackProp
from vbp_lightning.attribution import (
    GradCam,
    GuidedBackprop,
    IntegratedGradients,
    Lrp,
    Occlusion,
    Saliency,
    SymmetricVisualBackProp,
)
from vbp_lightning.evaluation.localisation import positive_part
from vbp_lightning.inspection.layers import layer_outputs
from vbp_lightning.models.networks import TILE_SIZE, RoadNetwork
from vbp_lightning.plotting.display import RGB, overlay, saliency_to_rgb, to_rgb
from vbp_lightning.scene_maps.views import reduced_mask

HERE = Path(__file__).parent
ROAD = 1  # the class
SCENE = "scene_042"
HIGHWAY = (SCENE, 384, 96)  # scene, row and column of a tile
LANE = ("scene_132", 384, 192)
TRACK = ("scene_062", 288, 96)
CAR_PARK = ("scene_037", 384, 192)
MARKED = (("scene_002", 0, 0), ("scene_002", 288, 96))
WAYS_BACK = {  # upsamplings, and their headings
    "deconv": "deconv\n(the paper's)",
    "deconv_normalized": "deconv_\nnormalized",
    "bilinear": "bilinear",
}

Cell = tuple[RGB, str] | None
"""A picture and the line below it."""


@cache
def scene_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """``(C, H, W)`` raw values."""
    with rasterio.open(path) as dataset:
        pixels: npt.NDArray[np.uint8] = dataset.read()
        return pixels


def tile_of(folder: Path, where: tuple[str, int, int]) -> tuple[Tensor, RGB]:
    """A tile as a network takes it ``(1, C, 96, 96)`` and, in its scene's colours, as a picture."""
    name, row, col = where
    scene = scene_pixels(folder / f"{name}.tif")[None]
    pixels = scene[:, :, row : row + TILE_SIZE, col : col + TILE_SIZE]
    return torch.from_numpy(pixels.astype(np.float32)), to_rgb(pixels, reference=scene)[0]


def relevance_picture(relevance: Tensor) -> RGB:
    """Draws the positive relevance ``(1, 1, H, W)``, from 0 to its largest value."""
    values = positive_part(relevance.detach()[:, 0].numpy())[0]
    return saliency_to_rgb(values / max(float(values.max()), 1e-30))


@torch.no_grad()
def says(model: nn.Module, tile: Tensor) -> str:
    """The line below a tile."""
    probability = model(tile).sigmoid().item()
    return "P(road) >0.999" if probability >= 0.9995 else f"P(road) {probability:.3f}"


def sheet(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], cell: int, gap_at: int = 0
) -> None:
    """Draws pictures in rows under headings of two lines at most, all 20 px high.

    Args:
        name: Of the file.
        columns: Headings.
        rows: Of as many cells each.
        cell: Side of a picture in px on a slide of 1280 × 720 px.
        gap_at: Column before which more room is left; 0 for none.
    """
    gap, extra, line = 12, 36, 27
    head = line * (1 + max(heading.count("\n") for heading in columns)) + 4
    captioned = [any(each and each[1] for each in row) for row in rows]
    width = len(columns) * (cell + gap) - gap + (extra if gap_at else 0)
    height = head + sum(cell + gap + line * has for has in captioned) - gap
    figure = Figure(figsize=(width / 100, height / 100), dpi=150)

    def write(x: float, baseline: float, text: str, weight: str = "normal") -> None:
        figure.text(x / width, 1 - baseline / height, text, fontsize=14.4, weight=weight)

    lefts = [
        index * (cell + gap) + (extra if gap_at and index >= gap_at else 0)
        for index in range(len(columns))
    ]
    for left, heading in zip(lefts, columns, strict=True):
        for above, text in enumerate(reversed(heading.split("\n"))):
            write(left, head - 9 - line * above, text, "bold")
    top = head
    for row, has_caption in zip(rows, captioned, strict=True):
        for left, each in zip(lefts, row, strict=True):
            if each is None:
                continue
            box = (left / width, 1 - (top + cell) / height, cell / width, cell / height)
            axes = figure.add_axes(box)
            axes.imshow(each[0], interpolation="nearest")
            axes.set_axis_off()
            write(left, top + cell + 20, each[1])
        top += cell + gap + line * has_caption
    figure.savefig(HERE / name, pil_kwargs={"optimize": True, "quality": 90})


def blank_network() -> RoadNetwork:
    """A strided network whose features all fire alike, whatever the tile."""
    network = RoadNetwork("strided", "hidden", mean=[0.0] * 3, std=[1.0] * 3).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.bias)
    return network


def draw_network(model: RoadClassifier, folder: Path) -> None:
    """A tile and the two liveliest maps of each block."""
    tile, picture = tile_of(folder, HIGHWAY)
    outputs = layer_outputs(model.network, tile)
    columns: list[list[Cell]] = [[(picture, ""), None]]
    headings = ["tile\n3 × 96 × 96"]
    for block in range(4):
        maps = outputs[f"block{block}.2"][0].detach()
        liveliest = maps.flatten(1).std(dim=1).argsort(descending=True)[:2]
        columns.append([(relevance_picture(maps[None, [each]]), "") for each in liveliest.tolist()])
        headings.append(f"block{block}\n{' × '.join(map(str, maps.shape))}")
    sheet("network.png", headings, list(zip(*columns, strict=True)), 150)


def draw_ways_back(model: RoadClassifier, folder: Path) -> None:
    """The mask of a tile by several upsamplings, and what each draws where all features are one."""
    tile, picture = tile_of(folder, HIGHWAY)
    blank = blank_network()
    masks: list[Cell] = [(picture, "")]
    flat: list[Cell] = [None]
    for name in WAYS_BACK:
        masks.append((relevance_picture(VisualBackProp(model, name).attribute(tile)), ""))
        raw = VisualBackProp(blank, name).attribute(tile, normalize=False)
        flat.append((relevance_picture(raw), ""))
    sheet("ways_back.png", ["tile", *WAYS_BACK.values()], [masks, flat], 184)


def draw_methods(model: RoadClassifier, folder: Path) -> None:
    """Two tiles by several methods."""
    methods: dict[str, Any] = {
        "VisualBack-\nProp": VisualBackProp(model, "resize_conv"),
        "saliency": Saliency(model),
        "guided\nbackprop": GuidedBackprop(model),
        "Grad-CAM": GradCam(model),
        "integrated\ngradients": IntegratedGradients(model),
        "LRP": Lrp(model),
        "occlusion": Occlusion(model),
    }
    rows: list[list[Cell]] = []
    for where in (HIGHWAY, TRACK):
        tile, picture = tile_of(folder, where)
        row: list[Cell] = [(picture, says(model, tile))]
        row += [(relevance_picture(each.attribute(tile, ROAD)), "") for each in methods.values()]
        rows.append(row)
    sheet("methods.png", ["tile", *methods], rows, 136)


def draw_symmetric(model: RoadClassifier, folder: Path) -> None:
    """Tiles with the paper's mask and the symmetric one."""
    rows: list[list[Cell]] = []
    for where in (LANE, TRACK, CAR_PARK):
        tile, picture = tile_of(folder, where)
        paper = VisualBackProp(model, "deconv").attribute(tile)
        ours = SymmetricVisualBackProp(model).attribute(tile, ROAD)
        rows.append(
            [
                (picture, says(model, tile)),
                (relevance_picture(paper), ""),
                (relevance_picture(ours), ""),
            ]
        )
    sheet("symmetric.png", ["tile", "the paper's", "symmetric"], rows, 156)


def draw_cheat(model: RoadClassifier, marked: Path, plain: Path) -> None:
    """Tiles with the mark and without, and the masks of the network that relies on it."""
    methods = (
        VisualBackProp(model, "resize_conv"),
        SymmetricVisualBackProp(model),
    )
    rows: list[list[Cell]] = []
    for where in MARKED:
        row: list[Cell] = []
        for folder in (marked, plain):
            tile, picture = tile_of(folder, where)
            row.append((picture, says(model, tile)))
            row += [(relevance_picture(each.attribute(tile, ROAD)), "") for each in methods]
        rows.append(row)
    names = ["VisualBack-\nProp", "symmetric"]
    sheet("cheat.png", ["with boards", *names, "without", *names], rows, 180, gap_at=3)


def draw_scene(plain: Path, maps: Path) -> None:
    """A scene with its probability, and its mask made tile by tile and at once."""
    path = plain / f"{SCENE}.tif"
    image = to_rgb(scene_pixels(path)[None])[0]
    shape = (image.shape[0], image.shape[1])
    with (
        rasterio.open(path) as scene,
        rasterio.open(maps / "seamless" / f"{SCENE}_probability.tif") as coarse,
        WarpedVRT(
            coarse, crs=scene.crs, transform=scene.transform, height=shape[0], width=shape[1]
        ) as fitted,
    ):
        road = fitted.read(1)
    shown = [overlay(image, np.square(road))]  # linear: the overlay takes a square root
    for mode in ("tiles", "seamless"):
        mask = reduced_mask(maps / mode / f"{SCENE}_visual_backprop.tif", shape)
        shown.append(saliency_to_rgb(mask))
    headings = ["scene", "P(road)", "masks of tiles", "seamless mask"]
    sheet("scene.jpg", headings, [[(each, "") for each in (image, *shown)]], 284)


def draw_epochs(panels: Path) -> None:
    """The tiles with little road, after the first and the last epoch."""
    pages = [np.asarray(Image.open(panels / f"epoch_{epoch:03d}.png")) for epoch in (0, 19)]
    height = pages[0].shape[0] // 4  # four groups of tiles, each with two lines below
    room = np.full((height - 55, 24, 3), 255, dtype=np.uint8)
    first, last = (page[height : 2 * height - 55, :, :3] for page in pages)
    Image.fromarray(np.hstack([first, room, last])).save(HERE / "epochs.png", optimize=True)


def main(run: Path, hans_run: Path, data: Path, maps: Path) -> None:
    """Draws them all."""
    plain, marked = (data / f"seed0_144x480px_v1{suffix}" for suffix in ("", "_mark24"))
    model = RoadClassifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    hans = RoadClassifier.load_from_checkpoint(hans_run / "checkpoints" / "best.ckpt")
    draw_network(model, plain)
    draw_ways_back(model, plain)
    draw_methods(model, plain)
    draw_symmetric(model, plain)
    draw_cheat(hans, marked, plain)
    draw_scene(plain, maps)
    draw_epochs(run / "panels")
    Image.open(run / "panels" / "chain.png").save(HERE / "chain.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("give RUN, HANS_RUN, DATA and the folder with the maps of the scene")
    main(*map(Path, sys.argv[1:]))
