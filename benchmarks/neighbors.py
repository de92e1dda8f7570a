"""Time to find a tile's neighbours among stored features: ``python benchmarks/neighbors.py``."""

import tempfile
import time
from pathlib import Path

import numpy as np

from vbp_lightning.inspection.neighbors import nearest

TILES, FEATURES, REPEATS = 100_000, 512, 5


def main() -> None:
    """Prints the wall-clock and the processor time of one query over memory-mapped features."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        kept = np.lib.format.open_memmap(path, "w+", np.float32, (TILES, FEATURES))
        kept[:] = np.random.default_rng(0).random((TILES, FEATURES), dtype=np.float32)
        kept.flush()
        for repeat in range(REPEATS):
            wall, processor = time.perf_counter(), time.process_time()
            nearest(np.load(path, mmap_mode="r"), np.array([repeat]), 8)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            print(f"1 of {TILES} tiles: {wall:.2f} s, {processor:.2f} s of processor time")


if __name__ == "__main__":
    main()
