"""Errors of the disk end a program with one line, and the program can be continued."""

import shutil

import pytest
from omegaconf import OmegaConf

from tests.helpers.checkpoints import saved
from vbp_lightning import RoadClassifier


def only_line(process):
    """The only line on standard error, after exit code 1."""
    assert process.returncode == 1, process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def put_in_the_way(path, *, is_folder):
    """A file, or a folder that is not empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_folder:
        (path / "something").mkdir(parents=True)
    else:
        path.touch()


@pytest.mark.parametrize(
    ("name", "is_folder", "way_out"),
    [
        (".", False, "repeat the command"),
        (".hydra", False, "repeat the command"),
        (".hydra/config.yaml", True, "repeat the command"),
        (".hydra/overrides.yaml", True, "continue with resume={run_dir}"),
        (".claim", True, "continue with resume={run_dir}"),
    ],
)
def test_a_name_that_is_taken_before_the_training(call, tiny, tmp_path, name, is_folder, way_out):
    run_dir = tmp_path / "run"
    taken = run_dir / name
    put_in_the_way(taken, is_folder=is_folder)
    line = only_line(call("train.py", *tiny, f"hydra.run.dir={run_dir}"))
    assert line.startswith(f"error: {taken}: cannot be written: ")
    end = way_out.format(run_dir=run_dir)
    assert line.endswith(f" (hydra.run.dir); move what has its name; then {end}")
    assert not list(tmp_path.rglob(".*.tmp*"))
    assert all(OmegaConf.load(path) for path in run_dir.rglob("*.yaml") if path.is_file())


def test_a_folder_of_explanations_that_vanishes_is_one_line(call, tiny, tmp_path, monkeypatch):
    from vbp_lightning.explaining.tasks import filters

    ckpt = saved(tmp_path / "a.ckpt", RoadClassifier("strided", mean=[120.0] * 3, std=[60.0] * 3))
    write = filters.write_results

    def disconnected(*arguments, **arrays):
        shutil.rmtree(tmp_path / "out")
        return write(*arguments, **arrays)

    options = (f"ckpt={ckpt}", "task=filters", f"output={tmp_path / 'out'}")
    with monkeypatch.context() as disk:
        disk.setattr(filters, "write_results", disconnected)
        line = only_line(call("explain.py", *options))
    assert line.startswith(f"error: {tmp_path / 'out' / 'filters.png'}: cannot be written: No such")
    assert "(output)" in line
    assert line.endswith("repeat the command")
    assert not (tmp_path / "out").exists()
    leftover = tmp_path / "out" / ".filters.999999.tmp.png"
    put_in_the_way(leftover, is_folder=False)
    assert call("explain.py", *options).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "filters.npz",
        "filters.png",
    ]
