"""Executed notebooks as pages that fetch nothing: `pages(folder of executed notebooks, site)`."""

import re
from pathlib import Path
from typing import Any

import nbformat
import plotly.io
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs

FIGURE = "application/vnd.plotly.v1+json"
OUTWARD = ("require_js_url", "mathjax_url", "mermaid_js_url", "mermaid_layout_elk_js_url", "jquery_url")
"""What nbconvert would fetch; none of it is needed here."""


def pages(folder: Path, site: Path) -> dict[str, str]:
    """Write a page for each notebook in `folder` below `site`; returns its place there and its title, in order."""
    home, titles = site / "notebooks", {}
    home.mkdir()
    (home / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    for file in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        titles[f"notebooks/{file.stem}.html"] = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
        (home / f"{file.stem}.html").write_text(_page(notebook, file.stem), encoding="utf-8")
    return titles


def _page(notebook: Any, name: str) -> str:
    """A notebook as HTML, its figures drawn by the plotly beside the page; sliders are left out, they need a kernel."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FIGURE in data:
                figure = plotly.io.from_json(
                    plotly.io.json.to_json_plotly(data.pop(FIGURE)), skip_invalid=True
                )
                data["text/html"] = plotly.io.to_html(figure, include_plotlyjs=False, full_html=False)
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(**dict.fromkeys(OUTWARD, ""))
    text, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})
    text = re.sub(r'<script[^>]* src="[^"]*"[^>]*></script>', "", text)
    return text.replace("</head>", '<script src="plotly.min.js"></script></head>', 1)
