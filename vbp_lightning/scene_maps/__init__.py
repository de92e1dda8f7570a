"""Maps of whole scenes: seamless or tile by tile, block by block, written georeferenced."""
