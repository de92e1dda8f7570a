"""Time to find the neighbours of a tile in feature space: ``python benchmarks/neighbors.py``."""

import time

import numpy as np

from vbp_lightning.inspection.neighbors import nearest

TILES, FEATURES, REPEATS = 20_000, 512, 5


def main() -> None:
    """Prints the wall-clock and the processor time of one query."""
    features = np.random.default_rng(0).random((TILES, FEATURES), dtype=np.float32)
    for query in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        nearest([features], features[[query]], np.array([query]), 8)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"1 of {TILES} tiles: {wall:.3f} s, {processor:.3f} s of processor time")


if __name__ == "__main__":
    main()
