import pytest

from vbp_lightning.plotting.canvas import Canvas


@pytest.fixture
def written(monkeypatch):
    """The lines that are written on pages, in order; none of them is drawn."""
    lines = []
    monkeypatch.setattr(
        Canvas, "text", lambda self, x, y, text, *args, **options: lines.append(text)
    )
    return lines
