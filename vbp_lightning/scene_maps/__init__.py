"""Georeferenced maps of whole scenes: seamless or tile by tile, computed block by block."""
