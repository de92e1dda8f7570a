"""Changes of an image, or of what is beside it, that change what is read."""

import rasterio


def change_pixel(path):
    """Changes one value of the first band."""
    with rasterio.open(path, "r+") as raster:
        pixels = raster.read()
        pixels[0, 0, 0] ^= 1
        raster.write(pixels)


def add_nodata_in_a_sidecar(path):
    """Declares 7 as nodata in the ``.aux.xml`` file, the raster itself being as before."""
    path.with_name(f"{path.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
        "</PAMDataset>"
    )
