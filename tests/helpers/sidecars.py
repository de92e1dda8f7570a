"""Files beside an image that change how it is read."""


def add_nodata_in_a_sidecar(path):
    """Declares 7 as nodata in the ``.aux.xml`` file, the raster itself being as before."""
    path.with_name(f"{path.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
        "</PAMDataset>"
    )
