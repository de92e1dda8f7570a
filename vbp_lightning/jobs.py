"""The folders of programs, and the jobs of several processes that share one."""

import atexit
import os
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from vbp_lightning.errors import UserError

_NO_NAME = "none"
"""The name of a job of torchrun that was given none."""

_INHERITED = "VBP_LIGHTNING_FOLDER_IN_"
"""The variable of the environment, with the parent folder, that hands a new folder on."""


def new_folder(parent: str) -> str:
    """The folder of a new run, sweep or explanation, named after date and time.

    It is made here, with a number behind the time if another program has that name, so that
    programs that start in the same second get different folders. If nothing is written to it, it is
    removed when the program ends. The processes of a job of SLURM or torchrun start at different
    times and must use the same folder: it is named after the job. Processes that Lightning starts
    use the folder of the process that started them.

    Args:
        parent: The folder of the runs.

    Raises:
        UserError: A job of torchrun on several machines has no name.
    """
    job = job_name()
    if job == _NO_NAME:
        raise UserError(
            "torchrun on several machines needs a name of the job: start it with --rdzv-id=NAME on"
            " each machine, or set hydra.run.dir"
        )
    if job is not None:
        return f"{parent}/job_{job}"
    inherited = f"{_INHERITED}{parent}"
    if "LOCAL_RANK" in os.environ and inherited in os.environ:
        return os.environ[inherited]
    above = Path(parent).absolute()
    missing = [each for each in (above, *above.parents) if not each.exists()]
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        folder = f"{parent}/{stamp}" + (f"_{number}" if number > 1 else "")
        try:
            Path(folder).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # reported where the folder is used
            return folder
        break
    atexit.register(_remove_empty, [Path(folder).absolute(), *missing])
    os.environ[inherited] = folder
    return folder


def is_first_process() -> bool:
    """Whether this is the only process of a job or its first: the one that writes and reports."""
    # Lightning's order; SLURM sets its variable also where it does not manage the processes
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def job_name() -> str | None:
    """The name of the job of SLURM or torchrun that this process belongs to with others."""
    environment = os.environ
    # Lightning ignores SLURM in the shell of an interactive job
    is_shell = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    has_tasks = "SLURM_STEP_ID" in environment and environment.get("SLURM_NTASKS", "1") != "1"
    if has_tasks and not is_shell:
        return f"{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
    job = environment.get("TORCHELASTIC_RUN_ID")
    is_alone = environment.get("GROUP_WORLD_SIZE", "1") == "1"
    return _launcher() if job == _NO_NAME and is_alone else job


def job_start() -> str:
    """Identifies one start of a job, which SLURM or torchrun may start again."""
    restarts = (os.environ.get(f"{name}_RESTART_COUNT", "0") for name in ("SLURM", "TORCHELASTIC"))
    return ".".join([str(job_name()), *restarts])


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _launcher() -> str:
    """Process and start time of torchrun, which gives jobs of one machine no id of their own."""
    process = os.getppid()
    try:  # clock ticks since the start of the system
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # other systems than Linux
        return str(process)
    return f"{process}-{fields[19]}"
