"""Pixels on the ground: reading, bands, resampling, nodata, normalisation, road masks, vectors."""
