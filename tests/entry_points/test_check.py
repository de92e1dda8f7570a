"""``python train.py check=true``, end to end."""

import csv

import numpy as np
import rasterio
from PIL import Image


def test_a_sound_data_set(call, tiny, tmp_path):
    process = call("train.py", *tiny, "check=true")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().endswith("Training can run.")
    for part in ("Tiles", "Bands", "EPSG:32632", "Ground sampling distance", "non-road", "ignored"):
        assert part in process.stdout
    (folder,) = (tmp_path / "outputs" / "check").iterdir()
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
        magenta = (np.asarray(sheet) == (255, 0, 220)).all(axis=2)
    assert magenta.any()
    tiles = list(csv.DictReader((folder / "tiles.csv").read_text().splitlines()))
    splits = {
        row["scene"]: row["split"]
        for row in csv.DictReader((folder / "splits.csv").read_text().splitlines())
    }
    assert all(splits[tile["scene"]] == tile["split"] for tile in tiles)
    assert not (folder / "checkpoints").exists()


def test_every_error_is_listed_and_what_can_be_read_is_shown(call, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        for folder, pixels in (
            ("images", rng.integers(0, 255, (3, 200, 200), np.uint8)),
            ("masks", np.where(np.arange(200) < 30, 255, 0)[None, None].repeat(200, 1)),
        ):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "data" / folder / f"{number}.tif"
            with rasterio.open(
                path, "w", driver="GTiff", width=200, height=200, count=len(pixels), dtype="uint8"
            ) as raster:
                raster.write(pixels.astype(np.uint8))
    (tmp_path / "data" / "images" / "2.tif").write_bytes(b"broken")
    (tmp_path / "data" / "masks" / "4.tif").unlink()
    process = call("train.py", "data=folder", "data.root=data", "check=true", "hydra.run.dir=run")
    assert process.returncode == 1
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "images/2.tif" in errors[0]
    assert "masks/4.tif" not in errors[0]
    assert "has no road mask" in errors[1]
    assert "Traceback" not in process.stderr
    assert "4 of 6 can be read" in process.stdout
    with Image.open(tmp_path / "run" / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
