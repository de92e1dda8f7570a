"""Programs in processes that are forked after the imports, which saves 4 s for each of them."""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).parents[2]

_IMPORTED = (
    *("vbp_lightning.training.check", "vbp_lightning.training.report", "vbp_lightning.callbacks"),
    *("vbp_lightning.explaining.tasks.scene", "vbp_lightning.explaining.tasks.attribution"),
    *("hydra.main", "matplotlib.figure", "pandas", "sklearn.metrics", "geopandas"),
)


@dataclass(frozen=True)
class Finished:
    """The result of a run, as in ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


@cache
def _context():
    """Starts the process that all others are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    with mock.patch.dict(os.environ, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return context


@dataclass(frozen=True)
class Program:
    """A program that runs; ``process`` is stopped by its methods ``kill`` and ``join``."""

    process: BaseProcess
    output: str

    def finished(self, timeout=240):
        """Waits for its end."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it has not ended in time"
        texts = (Path(f"{self.output}.{kind}").read_text() for kind in ("out", "err"))
        return Finished(self.process.exitcode, *texts)


def started(folder, script, *arguments, prepare=None, **environment):
    """Starts ``python SCRIPT ARGUMENTS`` in a folder.

    Args:
        folder: Its working directory.
        script: A path, or the name of an entry point.
        *arguments: Its arguments.
        prepare: A function of a module, called before the script.
        **environment: Changes of the environment variables.
    """
    output = f"{tempfile.mkdtemp()}/{Path(script).name}"
    given = {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | environment
    process = _context().Process(
        target=_run,
        args=(folder, [str(REPOSITORY / script), *arguments], os.environ | given, output, prepare),
    )
    process.start()
    return Program(process, output)


def _run(folder, argv, environment, output, prepare):
    from pytorch_lightning.utilities import rank_zero_only

    multiprocessing.set_start_method(None, force=True)  # that of a program, not of this process
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [str(Path(argv[0]).parent), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    for stream, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    rank_zero_only.rank = int(environment.get("RANK", 0))  # Lightning asked when it was imported
    sys.argv = argv
    try:
        if prepare is not None:
            prepare()
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # forked processes leave them out
