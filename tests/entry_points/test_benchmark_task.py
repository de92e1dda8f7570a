"""``task=benchmark`` end to end on procedural scenes and an untrained network."""

import csv

import numpy as np
import pytest
from PIL import Image

from vbp_lightning.attribution import UPSAMPLINGS
from vbp_lightning.evaluation.baselines import BASELINES


@pytest.fixture
def checkpoint(own_data):
    return own_data[1]


def test_the_benchmark(call, checkpoint, tmp_path):
    process = call(
        *("explain.py", f"ckpt={checkpoint}", "task=benchmark", "split=test", "output=out"),
        *("method=[visual_backprop,lrp]", "tiles=5", "perturbed=1", "cascaded=1"),
    )
    assert process.returncode == 0, process.stderr
    assert "Localisation" in process.stdout
    assert "lead [95 %]" in process.stdout
    with (tmp_path / "out" / "benchmark.csv").open(newline="") as file:
        rows = {(row["method"], row["upsampling"]): row for row in csv.DictReader(file)}
    count = len(BASELINES) + len(UPSAMPLINGS) + 1  # LRP
    assert len(rows) == count
    uniform, lrp = rows["uniform", ""], rows["lrp", ""]
    assert float(uniform["average_precision_lift"]) == 0
    assert float(lrp["lrp_correlation"]) == pytest.approx(1)
    assert float(lrp["lrp_size_correlation"]) == pytest.approx(1)
    assert float(rows["visual_backprop", "deconv"]["cascade_head"]) == pytest.approx(1)
    assert float(rows["visual_backprop", "deconv"]["comb_energy"]) > 0.2
    assert float(rows["visual_backprop", "bilinear"]["comb_energy"]) < 0.01
    assert list(lrp)[-1] == "ms_batch"
    arrays = np.load(tmp_path / "out" / "benchmark.npz")
    assert arrays["average_precision"].shape == (count, len(arrays["scenes"]))
    assert arrays["corners"].shape == (len(arrays["scenes"]), 2)
    # of a constant map's relevance the road has its share
    np.testing.assert_allclose(arrays["relevance_mass"][0], arrays["road_shares"])
    place = list(arrays["methods"]).index("lrp")
    mean = arrays["average_precision"][place].mean()
    assert float(lrp["average_precision"]) == pytest.approx(mean, rel=1e-5)
    assert 0.5 < float(lrp["robustness_noise"]) <= 1
    assert float(uniform["entropy"]) == pytest.approx(1)
    assert float(uniform["gini"]) == pytest.approx(0, abs=1e-6)
    assert "deletion; insertion; ROAD: images with removed pixels" in process.stdout
    for name in ("localisation.png", "cascade.png", "sorted_tiles.png"):
        with Image.open(tmp_path / "out" / name) as figure:
            assert min(figure.size) > 200


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target=non_road", "target=non_road"),
        ("perturbed=-1", "perturbed=-1"),
        ("tuned=0", "tuned=0"),
        ("method=[]", "method=[]"),
    ],
)
def test_wrong_settings_are_one_line(call, checkpoint, override, message):
    process = call("explain.py", f"ckpt={checkpoint}", "task=benchmark", override)
    assert process.returncode == 1
    assert message in process.stderr
    assert "Traceback" not in process.stderr
