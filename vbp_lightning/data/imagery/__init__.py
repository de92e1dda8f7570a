"""Georeferenced pixels: bands, resampling, extent, nodata, statistics, road masks, vectors."""
