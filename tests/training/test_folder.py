"""Names, locks and metrics of run folders, and the settings in them."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import hydra.core.utils
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.files import WriteError
from vbp_lightning.training.folder import claimed, finished_metrics, job_folder

OVERRIDES = st.lists(st.text(min_size=0, max_size=400), max_size=4)


@given(OVERRIDES)
def test_a_jobs_folder_can_be_typed_on_the_command_line(overrides):
    name = job_folder(overrides)
    assert 0 < len(name.encode()) <= 200
    assert not set(name) & set("=,/\\ '\"[]{}()$:;~!&*?<>|`\t\n\0")
    value = f"{name}/checkpoints/best.ckpt"
    parsed = OverridesParser.create().parse_override(f"ckpt=outputs/multirun/{value}")
    assert parsed.value() == f"outputs/multirun/{value}"


@given(OVERRIDES, OVERRIDES)
def test_jobs_of_different_overrides_have_different_folders(one, other):
    assert (job_folder(one) == job_folder(other)) == (sorted(one) == sorted(other))


def test_a_jobs_folder_is_named_after_its_overrides():
    overrides = ["upsampling=deconv", "model=maxpool", "data.road_share=0.05", "seed=-1"]
    assert job_folder(overrides) == ("data.road_share-0.05+model-maxpool+seed--1+upsampling-deconv")
    assert job_folder(overrides, ["upsampling", "model", "other"]) == (
        "data.road_share-0.05+seed--1"
    )
    name = job_folder(["data.root=/some/where", "seed=1"])
    assert re.fullmatch(r"data\.root-_some_where\+seed-1@[0-9a-f]{12}", name)
    assert job_folder([]) == job_folder(["seed=1"], ["seed"]) == "default"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["data.root=v/1"], ["data.root=v_1"]),
        (["data.root=/v/1"], ["data.root=v/1"]),
        (["data.root=v/1"], ["data.root='v/1'"]),
        (["data.root=v_1"], ["data.root='v_1'"]),
        (["data.root=v 1"], ["data.root=v  1"]),
        (["data.root=ü"], ["data.root=ö"]),
        (["data.root=ü"], ["data.root=u\u0308"]),
        (["data.bands=[1,2]"], ["data.bands=[1.2]"]),
        (["data.bands=[1,2]"], ["data.bands=[12]"]),
        (["a=1", "b=2"], ["a=1+b-2"]),
        (["a=1", "b=2+b-3"], ["a=1+b-2", "b=3"]),
        (["a-b=c"], ["a=b-c"]),
        (["a=1"], ["+a=1"]),
        (["a=_"], ["a="]),
        (["a=1"], ["a=1_"]),
        ([f"a={'x' * 300}1"], [f"a={'x' * 300}2"]),
        ([f"a={'x/' * 300}"], [f"a={'x_' * 300}"]),
        ([], ["default"]),
    ],
)
def test_names_that_look_alike_stay_apart(one, other):
    assert job_folder(one) != job_folder(other)


def test_a_name_with_a_digest_is_no_name_of_other_overrides():
    name = job_folder(["a=v/1"])
    key, value = name.split("-", 1)
    assert job_folder([f"{key}={value}"]) != name


def test_a_folder_is_locked_by_one_process_and_freed_when_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib\n"
            "from vbp_lightning.training.folder import claimed\n"
            "with claimed(pathlib.Path(sys.argv[1])):\n"
            "    print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(UserError, match="another process is writing"), claimed(tmp_path, 0):
        pass
    holder.kill()
    holder.communicate()
    with claimed(tmp_path):
        assert finished_metrics(tmp_path) is None
    (tmp_path / "metrics.json").write_text('{"val/auroc": 0.5}')
    assert finished_metrics(tmp_path) == {"val/auroc": 0.5}


@pytest.mark.parametrize("restarts", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_processes_of_a_job_wait_for_the_first_one_of_the_same_start(
    monkeypatch, tmp_path, restarts
):
    def is_claimed(first):
        monkeypatch.setattr("vbp_lightning.training.folder.is_first_process", lambda: first)
        with claimed(tmp_path, start_patience=0.1):
            return True

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "an-id")
    with pytest.raises(UserError, match=r"first process of the job has not locked this folder"):
        is_claimed(first=False)
    assert is_claimed(first=True)
    assert is_claimed(first=False)
    monkeypatch.setenv(restarts, "1")
    with pytest.raises(UserError, match=r"has not locked"):
        is_claimed(first=False)
    assert is_claimed(first=True)
    assert is_claimed(first=False)


def test_the_first_process_removes_what_an_earlier_start_left(tmp_path):
    for name in ("failed.txt", "hpc_ckpt_3.ckpt", "last.ckpt"):
        (tmp_path / name).write_text("old")
    with claimed(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".claim", "last.ckpt"}


def save_of_a_job(config, path):
    hydra.core.utils._save_config(config, path.name, path.parent)


@pytest.mark.parametrize("save", [save_of_a_job, OmegaConf.save])
def test_hydra_writes_its_files_completely_or_not_at_all(tmp_path, monkeypatch, save):
    path = tmp_path / "multirun.yaml"
    older = OmegaConf.create({"seed": 1, "again": "${seed}"})
    save(older, path)
    assert path.read_text() == "seed: 1\nagain: ${seed}\n"

    def full(self, text, **_):
        self.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match="No space left") as caught:
        save(OmegaConf.create({"seed": 2}), path)
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["multirun.yaml"]
    assert OmegaConf.load(path) == older
