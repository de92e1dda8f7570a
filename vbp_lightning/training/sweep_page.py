"""The page of a sweep: its table, and the last panel of each job, in one HTML file."""

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbp_lightning.cli import FAILURE_FILE
from vbp_lightning.errors import plain
from vbp_lightning.files import replacing

if TYPE_CHECKING:
    import pandas as pd

PAGE_FILE = "sweep.html"

_LARGEST = 200_000
"""Bytes of a picture; a larger one is reduced."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 1200px;
  padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: left;
  vertical-align: top; }
.best { font-weight: bold; }
.jobs { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); }
.jobs h2 { font-size: 1rem; overflow-wrap: anywhere; margin: 0 0 .3rem; }
img { max-width: 100%; height: auto; }
.error { color: #c33; overflow-wrap: anywhere; }
"""


def write_page(sweep_dir: Path, jobs: "pd.DataFrame", shown: list[str]) -> Path:
    """Writes ``sweep.html``, which needs no other file, and returns its path.

    Args:
        sweep_dir: The folder of the sweep.
        jobs: As :func:`~vbp_lightning.training.sweep.summarize` gives them.
        shown: The metrics of the table.

    Raises:
        OSError: It cannot be written; an older one is left as it was.
    """
    settings = [
        key for key in jobs.columns if "/" not in key and key not in ("status", "path", "threshold")
    ]
    axes = [key for key in settings if jobs[key].nunique(dropna=False) > 1]
    common = [f"{key}={jobs[key].iloc[0]}" for key in settings if key not in axes]
    columns = ["status", *axes, *(key for key in shown if key in jobs.columns)]
    best = {key: jobs[key].max() for key in columns if "/" in key} if len(jobs) > 1 else {}
    names = [_text(key).replace("/", "/<wbr>").replace("_", "_<wbr>") for key in columns]
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = [
        "".join(_cell(job[key], key in best and job[key] == best[key]) for key in columns)
        for _, job in jobs.iterrows()
    ]
    table = f"<tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows)
    by_job = jobs.groupby("path", sort=False)
    parts = [_part([row for _, row in rows.iterrows()], axes, columns) for _, rows in by_job]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(sweep_dir.name)}</title><style>{_STYLE}</style>"
        f"<h1>Sweep {_text(sweep_dir.name)}</h1>"
        f"<p>All jobs: {_text(', '.join(common) or 'default settings')}. * and bold: the best.</p>"
        f'<div class="wide"><table>{table}</table></div><h1>Jobs</h1>'
        f'<div class="jobs">{"".join(parts)}</div></html>'
    )
    with replacing(sweep_dir / PAGE_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return sweep_dir / PAGE_FILE


def _text(value: object) -> str:
    return escape(plain(str(value)))


def _cell(value: object, is_best: bool = False) -> str:
    shown = "" if value != value else f"{value:.3f}" if isinstance(value, float) else str(value)
    return f'<td class="best">{_text(shown)} *</td>' if is_best else f"<td>{_text(shown)}</td>"


def _part(rows: "list[Any]", axes: list[str], columns: list[str]) -> str:
    """A job, with a row for each upsampling: settings, metrics or error, and its last panel."""
    job = rows[0]
    folder = Path(str(job["path"]))
    named = ", ".join(
        f"{key}={job[key]}" for key in axes if key != "upsampling" and job[key] == job[key]
    )
    lines = [f"<h2>{_text(named or folder.name)}</h2>"]
    failure = folder / FAILURE_FILE
    if job["status"] == "failed":
        lines.append(f'<p class="error">{_text(failure.read_text(errors="replace").strip())}</p>')
    for row in rows:
        values = [f"{key} {row[key]:.3f}" for key in columns if "/" in key and row[key] == row[key]]
        name = [f"{row['upsampling']}:"] if len(rows) > 1 else []
        if len(rows) > 1 and row is not job:  # those of the classification are the same
            values = [value for value in values if value.startswith("explanation/")]
        lines.append(f"<p>{_text(' '.join([*name, ', '.join(values) or str(row['status'])]))}</p>")
    panels = sorted((folder / "panels").glob("epoch_*.png"))
    if panels and (picture := _picture(panels[-1])):
        lines.append(f'<img alt="panel of the last epoch" src="data:image/{picture}">')
    return f"<section>{''.join(lines)}</section>"


def _picture(path: Path) -> str | None:
    """The picture as a data URL without its beginning, reduced if it is large."""
    from PIL import Image

    data, kind = path.read_bytes(), "png"
    if len(data) > _LARGEST:
        try:
            picture = Image.open(io.BytesIO(data)).convert("RGB")
        except OSError:  # a damaged file
            return None
        for quality in (80, 60, 40, 20):
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=quality)
            data, kind = stream.getvalue(), "jpeg"
            if len(data) <= _LARGEST:
                break
    return f"{kind};base64,{base64.b64encode(data).decode()}"
