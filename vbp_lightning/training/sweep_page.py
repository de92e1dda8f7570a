"""The page of a sweep, ``sweep.html``: its table, and settings, metrics and last panel of each job.

The page holds its pictures, refers to nothing outside itself and needs no server.
"""

import base64
import io
import math
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbp_lightning.cli import FAILURE_FILE
from vbp_lightning.errors import UserError, plain
from vbp_lightning.files import write_page
from vbp_lightning.training.stored_files import stored_mapping
from vbp_lightning.training.sweep_table import (
    BEST,
    Cell,
    by_upsampling,
    compared_metrics,
    heading,
    settings_of,
    table_rows,
    varying,
)

if TYPE_CHECKING:
    import pandas as pd

PAGE_FILE = "sweep.html"

_MOST_BYTES = 210_000
"""Of a picture: 280 kB in the page, which holds it in base64."""

_LARGEST = (2000, 6000)
"""Width and height of a picture in pixels."""

_QUALITIES = (65, 40)
"""Of WebP; a picture that is too large with the last one is made smaller."""


@dataclass(frozen=True)
class _Panel:
    """The last panel of a job; ``source`` is empty if it cannot be read."""

    name: str
    source: str
    width: int = 0
    height: int = 0


def write_sweep_page(sweep_dir: Path, jobs: "pd.DataFrame", optimized_metric: str) -> Path:
    """Writes ``sweep.html`` beside ``summary.csv``.

    Args:
        sweep_dir: The folder of the sweep.
        jobs: As :func:`~vbp_lightning.training.sweep.summarize` gives them.
        optimized_metric: Shown beside the usual metrics.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written; an older one is left as it was.
    """
    path = sweep_dir / PAGE_FILE
    template = "vbp_lightning.training", f"{PAGE_FILE}.jinja"
    content = _content(sweep_dir, jobs, optimized_metric)
    write_page(path, template, content, plain=plain, heading=heading)
    return path


def _content(sweep_dir: Path, jobs: "pd.DataFrame", optimized_metric: str) -> dict[str, Any]:
    """What the template shows."""
    each = by_upsampling(jobs)
    metrics = [name for part in compared_metrics(each, optimized_metric) for name in part]
    settings = settings_of(jobs)
    axes = varying(jobs, settings)
    paths = [Path(path) for path in jobs.get("path", ())]
    given = {key: str(jobs[key].iloc[0]) for key in settings if key not in axes}
    common = _common_settings(paths)
    return {
        "name": sweep_dir.name,
        "folder": str(sweep_dir),
        "best": BEST,
        "counts": jobs["status"].value_counts().to_dict() if len(jobs) else {},
        "metrics": metrics,
        "rows": table_rows(each, metrics) if len(jobs) else [],
        "given": given,
        "common": {key: common[key] for key in common if key not in given},
        "jobs": [
            {
                "settings": {k: str(v) for k, v in job.items() if k in axes and v == v},
                "status": job["status"],
                "path": job["path"],
                "reasons": failure_reasons(path) if job["status"] == "failed" else [],
                "results": _results(each[each["path"] == job["path"]], metrics),
                "panel": _last_panel(path),
            }
            for path, job in zip(paths, jobs.to_dict("records"), strict=True)
        ],
    }


def _results(job: "pd.DataFrame", metrics: list[str]) -> dict[str, dict[str, str]]:
    """The metrics of a finished job by upsampling, whose name is empty if there is only one."""
    found = {}
    for row in job.to_dict("records"):
        if row["status"] == "done":
            name = str(row["upsampling"]) if len(job) > 1 else ""
            cells = (Cell(metric, row[metric], math.nan, False) for metric in metrics)
            found[name] = {cell.name: cell.value for cell in cells}
    return found


def failure_reasons(job: Path) -> list[str]:
    """The lines that say why a job failed.

    Args:
        job: The folder of a failed job.
    """
    return (job / FAILURE_FILE).read_text(errors="replace").strip().splitlines()


def _common_settings(jobs: list[Path]) -> dict[str, str]:
    """The settings that have the same value in all jobs, those by default included."""
    found: list[set[tuple[str, str]]] = []
    for path in (job / ".hydra" / "config.yaml" for job in jobs):
        with suppress(UserError, OSError):
            found.append(_flat_settings(path, path.stat().st_mtime_ns))
    return dict(sorted(set.intersection(*found))) if found else {}


@lru_cache(maxsize=1000)
def _flat_settings(path: Path, changed: int) -> set[tuple[str, str]]:
    """Dotted keys and values of a stored config, as text; read again when the file has changed."""
    import pandas as pd

    flat = pd.json_normalize(stored_mapping(path)).to_dict("records")[0]
    return {(key, "null" if value is None else str(value)) for key, value in flat.items()}


def _last_panel(job: Path) -> _Panel | None:
    """The panel of the last epoch, or that of the example predictions; None if there is none."""
    epochs = sorted((job / "panels").glob("epoch_*.png"), key=lambda path: (len(path.name), path))
    for path in (*epochs[-1:], job / "panels" / "example_predictions.png"):
        with suppress(OSError):
            return _encoded(path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=1000)
def _encoded(path: Path, changed: int) -> _Panel:
    """A panel as WebP in a data URL; encoded again when the file has changed.

    Args:
        path: The PNG.
        changed: When it was changed.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as stored:
            picture = stored.convert("RGB").crop(
                (0, 0, stored.width, min(stored.height, _LARGEST[1]))
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _Panel(path.name, "")
    picture.thumbnail(_LARGEST)
    qualities = list(_QUALITIES)
    while True:
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=qualities[0], method=2)
        if file.tell() <= _MOST_BYTES:
            source = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
            return _Panel(path.name, source, *picture.size)
        if len(qualities) > 1:
            del qualities[0]
        else:
            picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4))
