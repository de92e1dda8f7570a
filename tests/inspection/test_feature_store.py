"""The store of features: what it keeps, and that nothing stale or torn is taken for it."""

import numpy as np
import pytest
import torch

from tests.helpers.examples import images, road
from vbp_lightning.errors import UserError
from vbp_lightning.files import file_digest
from vbp_lightning.inspection.feature_store import (
    open_store,
    still_holds,
    store_folder,
    write_store,
)
from vbp_lightning.inspection.layers import layer_outputs

SETTINGS = {"checkpoint": "abc", "split": "val", "tile_size": 96}
LABELS = np.array([1, 0, -1, 1, 0])
PLACES = [("a", 0, 0), ("a", 0, 96), ("b", 96, 0), ("long name", 7, 8), ("b", 1, 2)]


def written(folder, net=None):
    net = net or road("strided").eval()
    return write_store(folder, SETTINGS, net, images(5).split(2), LABELS, PLACES)


def test_what_is_kept(tmp_path):
    folder = store_folder(tmp_path, SETTINGS)
    store = written(folder)
    net = road("strided").eval()
    expected = layer_outputs(net, images(5))
    assert np.allclose(store.features, expected["hidden.2"].numpy(), atol=1e-5)
    assert np.allclose(store.outputs, expected["prob"].numpy(), atol=1e-5)
    assert store.labels.tolist() == LABELS.tolist()
    assert list(zip(store.scenes, store.rows, store.cols, strict=True)) == PLACES
    assert isinstance(store.features, np.memmap)
    assert len(store) == 5
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
    again = open_store(folder, SETTINGS)
    assert np.array_equal(again.features, store.features)


def test_other_settings_have_another_folder_and_are_not_taken(tmp_path):
    other = SETTINGS | {"checkpoint": "abd"}
    assert store_folder(tmp_path, SETTINGS) != store_folder(tmp_path, other)
    written(tmp_path / "store")
    assert open_store(tmp_path / "store", other) is None
    assert open_store(tmp_path / "none", SETTINGS) is None


def test_a_torn_store_is_not_taken(tmp_path):
    folder = tmp_path / "store"
    written(folder)
    np.save(folder / "labels.npy", LABELS[:3])
    assert open_store(folder, SETTINGS) is None
    written(folder)
    (folder / "features.npy").write_bytes(b"no array")
    assert open_store(folder, SETTINGS) is None
    assert open_store(folder, SETTINGS) is None or written(folder)


def test_a_failure_leaves_nothing_behind_and_the_older_store_as_it_was(tmp_path):
    folder = tmp_path / "store"
    before = np.array(written(folder).features)

    def torn():
        yield images(5)[:2]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_store(folder, SETTINGS, road("strided").eval(), torn(), LABELS, PLACES)
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    assert np.array_equal(open_store(folder, SETTINGS).features, before)
    with pytest.raises(ValueError, match="2 tiles came for 5 labels"):
        write_store(folder, SETTINGS, road("strided").eval(), [images(2)], LABELS, PLACES)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="features cannot be written"):
        written(tmp_path / "file" / "store")


def test_changed_imagery_or_weights_are_noticed(tmp_path):
    net = road("strided").eval()
    store = written(tmp_path / "store", net)
    assert still_holds(store, net, images(5)[[0, 4]], [0, 4])
    assert not still_holds(store, net, images(5)[[0, 4]] + 0.2, [0, 4])
    with torch.no_grad():
        net.block2[0].weight.mul_(1.5)
    assert not still_holds(store, net, images(5)[[0, 4]], [0, 4])


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
