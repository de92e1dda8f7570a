"""ONNX Runtime beside PyTorch: P(road) and masks of exported models, times and differences.

Interleaves both in one process, with as many threads each, and compares medians. PyTorch is
``VisualBackProp.attribute_with_logits`` for tiles, and the mapper of ``task=scene`` for scenes.
Needs the extra ``onnx``.

    python benchmarks/exported_models.py [repeats]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from visual_backprop import medians, network

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.explaining.exported_networks import SceneModel, TileModel
from vbp_lightning.explaining.tasks.export import OUTPUTS, write_onnx
from vbp_lightning.models.networks import RoadNetwork
from vbp_lightning.scene_maps.output_grid import Block, CellGrid
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.split_network import split_network

SIDE = 1024


def session(model: TileModel | SceneModel) -> onnxruntime.InferenceSession:
    """The ONNX model on as many threads as PyTorch uses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model.eval(), path, {})
        return onnxruntime.InferenceSession(path, options)


def main(repeats: int) -> None:
    """Prints one row for each network, upsampling and input."""
    torch.manual_seed(0)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, onnxruntime"
        f" {onnxruntime.__version__}, {repeats} repeats"
    )
    print("network  upsampling         input         PyTorch ms    ONNX ms  ratio  difference")
    for architecture in ("strided", "maxpool"):
        net = network(architecture)
        for name in ("deconv", "deconv_normalized", "bilinear"):
            of_tiles = session(TileModel(net, 3, 96, name, tta=False))
            for count in (1, 64):
                compare(
                    architecture, net, name, of_tiles, torch.rand(count, 3, 96, 96) * 255, repeats
                )
            split = split_network(net, torch.empty(1, 3, 96, 96))
            fill = net.normalize.mean.flatten().tolist()
            of_scenes = session(SceneModel(split, 3, 96, name, 0, fill, tta=False))
            compare(architecture, net, name, of_scenes, torch.rand(1, 3, SIDE, SIDE) * 255, repeats)


def compare(
    architecture: str,
    net: RoadNetwork,
    name: str,
    model: onnxruntime.InferenceSession,
    images: Tensor,
    repeats: int,
) -> None:
    """Prints the row of one input."""
    scene = images.shape[2] == SIDE
    method, mapper = VisualBackProp(net, name), SeamlessMapper(net, 3, name)
    inputs = mapper.inputs(CellGrid((SIDE, SIDE), 96, 8), Block(0, 0, SIDE, SIDE))
    usable = np.ones((len(inputs.rows), len(inputs.cols)), bool)
    (given,) = model.get_inputs()

    def in_torch():
        if scene:
            return mapper.compute(images[0].numpy(), inputs, usable)
        return method.attribute_with_logits(images)

    def in_onnx():
        return model.run(OUTPUTS, {given.name: images.numpy()})

    count = repeats if len(images) > 1 or scene else 10 * repeats
    times = medians({"torch": in_torch, "onnx": in_onnx}, count)
    mask, other = np.asarray(in_torch()[1]), in_onnx()[1]
    difference = np.abs(mask - other).max() / (mask.max() if scene else 1)
    size = "×".join(map(str, (len(images), *images.shape[2:])))
    print(
        f"{architecture:8} {name:18} {size:13} {times['torch']:10.2f} {times['onnx']:10.2f}"
        f" {times['onnx'] / times['torch']:6.2f}  {difference:.0e}",
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
