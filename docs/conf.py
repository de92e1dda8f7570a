"""Settings of the documentation site: ``make docs`` builds it in ``docs/_build/html``."""

import pkgutil
import re
from pathlib import Path

from sphinx.application import Sphinx

import vbp_lightning

project = "vbp_lightning"
author = "The vbp_lightning authors"
project_copyright = author
release = version = vbp_lightning.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "slides.md"]  # the slides are a talk: `make slides`
nitpick_ignore_regex = [  # types of other libraries: their documentation is not linked
    (
        r"py:.*",
        r"(affine|argparse|collections|concurrent|contextlib|geopandas|hydra|lightning|matplotlib"
        r"|numpy|omegaconf|pandas|pathlib|pd|PIL|pydantic|pydantic_core|pyproj|pytorch_lightning"
        r"|rasterio|rich|shapely|tempfile|torch|torchmetrics|typing)\..*",
    ),
    (r"py:class", r"Table"),  # of rich, imported for type checking only
    (r"py:class", r"_P|vbp_lightning\..*<locals>.*"),  # in signatures and aliases of types
    (r"py:.*", r"vbp_lightning\..*\._\w+"),  # private type variables in signatures
]

nb_execution_mode = "off"  # `make tour` runs the notebook
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute may also be described in the docstring of its class

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"vbp_lightning {release}"


def write_api_pages(folder: Path) -> None:
    """Writes one page per package, with the docstrings of all of its modules."""
    folder.mkdir(exist_ok=True)
    modules_of: dict[str, list[str]] = {vbp_lightning.__name__: []}
    for module in pkgutil.walk_packages(vbp_lightning.__path__, "vbp_lightning."):
        if module.ispkg:
            modules_of[module.name] = []
        else:
            modules_of[module.name.rpartition(".")[0]].append(module.name)
    pages = {folder / f"{package}.rst" for package in modules_of}
    for page in set(folder.glob("*.rst")) - pages:
        page.unlink()
    for package, modules in modules_of.items():
        parts = [f"{package}\n{'=' * len(package)}\n\n.. automodule:: {package}\n"]
        for name in modules:
            parts.append(f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n   :members:\n")
        page, text = folder / f"{package}.rst", "\n".join(parts)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def keep_first_line(_app: Sphinx, what: str, _name: str, *rest: object) -> None:
    """Keeps napoleon from reading "Rows: from the top" as an attribute of the type "Rows"."""
    lines = rest[-1]
    if what in {"attribute", "data", "property"} and isinstance(lines, list):
        lines[:0] = ["..", ""]  # an empty comment


_CONSTRAINED = re.compile(
    r"~?(?:typing\.)?Annotated\[([\w.~]+(?:\[[^\[\]]*\])?)"
    r"(?:, [\w.~]+\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))+\]"
)


def without_constraints(*event: object) -> tuple[str | None, object] | None:
    """Shows settings with plain types, without the objects that hold their ranges."""
    *_, signature, result = event
    if not isinstance(signature, str):
        return None
    found = 1
    while found:  # lists of constrained values may be constrained too
        signature, found = _CONSTRAINED.subn(r"\1", signature)
    # Sphinx writes the module of a constrained class twice
    return re.sub(r"~[\w.]+\.~", "~", signature), result


def setup(app: Sphinx) -> None:
    """Writes the pages of the API before Sphinx looks for pages."""
    write_api_pages(Path(app.srcdir) / "api")
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)
    app.connect("autodoc-process-signature", without_constraints)
