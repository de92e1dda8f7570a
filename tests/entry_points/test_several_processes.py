"""``train.py`` in two processes that torchrun started."""

import itertools
import os
import signal
import socket

from tests.entry_points.test_train import assert_same_end
from tests.helpers.programs import started


def kill_in_sixth_step():
    """Kills this process in its sixth training step."""
    from vbp_lightning.models import RoadClassifier

    whole, calls = RoadClassifier.training_step, itertools.count(1)

    def counted(*arguments):
        if next(calls) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)

    RoadClassifier.training_step = counted


def two_processes(folder, job, settings, killed=None):
    """Runs ``train.py`` in two processes with the variables of torchrun; what each ends with.

    Args:
        folder: The working directory.
        job: Name of the job.
        settings: Of the run.
        killed: The rank of the process that is killed in its sixth training step.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job_variables = {
        "TORCHELASTIC_RUN_ID": job,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
    }
    programs = [
        started(
            *(folder, "train.py", *settings),
            prepare=kill_in_sixth_step if rank == killed else None,
            **job_variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    return [program.finished() for program in programs]


def test_jobs_of_two_processes(tiny, tmp_path):
    settings = (*tiny, "trainer=ddp", "trainer.max_epochs=3", "seed=3")
    scenes = f"data.root={tmp_path / 'scenes'}"  # not there yet: one of the processes writes them
    jobs = {
        "whole": [*settings, scenes],
        "cut": [*settings, scenes, "hydra.run.dir=cut"],
        "resumed": ["resume=cut"],
        "finished": ["resume=cut"],
        "other": [*settings, scenes, "hydra.run.dir=cut", "seed=4"],
        "no_data": ["data=massachusetts", "data.root=nowhere"],
        "no_run": ["resume=nowhere"],
        "no_setting": ["seeed=1"],
    }
    ended = {
        job: two_processes(tmp_path, job, given, killed=1 if job == "cut" else None)
        for job, given in jobs.items()
    }
    codes = {job: [each.returncode for each in both] for job, both in ended.items()}
    errors = {job: "".join(each.stderr for each in both) for job, both in ended.items()}
    output = {job: "".join(each.stdout for each in both) for job, both in ended.items()}

    assert codes["whole"] == [0, 0], errors["whole"]
    assert "warning" not in errors["whole"].lower()
    assert output["whole"].count("TensorBoard: ") == 1
    runs = tmp_path / "outputs" / "train"
    assert {path.name for path in runs.iterdir()} == {"job_whole", "job_no_data"}

    assert codes["cut"] == [1, -9], errors["cut"]
    assert errors["cut"].count("error: ") == 1
    assert "error: another process of this job has ended" in errors["cut"]
    assert codes["resumed"] == codes["finished"] == [0, 0], errors["resumed"]
    assert_same_end(runs / "job_whole", tmp_path / "cut")
    assert output["finished"].count("is done: nothing to do") == 1

    # errors that all processes meet are printed once
    for job, line in (
        ("other", "error: {}/cut: holds a run with other settings, seed was 3, not 4"),
        ("no_data", "error: {}/nowhere: is not a folder"),
        ("no_run", "error: {}/nowhere: is no run or sweep"),
        ("no_setting", "Could not override 'seeed'."),
    ):
        assert codes[job] == [1, 1]
        assert errors[job].count(line.format(tmp_path)) == 1, errors[job]
        assert "Traceback" not in errors[job]
