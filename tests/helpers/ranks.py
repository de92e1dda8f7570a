"""Jobs of two processes, as torchrun starts them: ``python -m tests.helpers.ranks < jobs.json``.

``jobs.json`` holds a list of jobs: name, rank that is killed in its sixth training step (-1 for
none), and settings. One after the other, two processes run ``train.py`` with the environment
variables of torchrun. They are forked after the imports, which saves seconds. Their output is in
``NAME.out`` and ``NAME.err``. Prints a line for each job: the exit codes by rank.
"""

import itertools
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

import vbp_lightning.callbacks
import vbp_lightning.training.check
import vbp_lightning.training.report  # noqa: F401  the imports of a run
from vbp_lightning.models import RoadClassifier

TRAIN = str(Path(__file__).parents[2] / "train.py")


def kill_in_sixth_step():
    whole, calls = RoadClassifier.training_step, itertools.count(1)

    def counted(*arguments):
        if next(calls) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)

    RoadClassifier.training_step = counted


def train(rank, job, port, is_killed, settings):
    os.environ |= {
        "TORCHELASTIC_RUN_ID": job,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    rank_zero_only.rank = rank  # Lightning has looked for it when it was imported
    if is_killed:
        kill_in_sixth_step()
    sys.argv = [TRAIN, *settings]
    runpy.run_path(TRAIN, run_name="__main__")


def run(job, killed, settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        if process := os.fork():
            processes.append(process)
            continue
        code = 70
        try:
            for stream, kind in ((1, "out"), (2, "err")):
                file = os.open(f"{job}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(file, stream)
            train(rank, job, port, killed == rank, settings)
            code = 0
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


if __name__ == "__main__":
    for job in json.load(sys.stdin):
        print(run(*job), flush=True)
