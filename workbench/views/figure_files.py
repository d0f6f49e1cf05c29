"""Figures as files: pages that share one plotly.js and follow the reader's choice of light or dark, and pictures."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageChops

from workbench.errors import InputError, install
from workbench.views.panels import NIGHT, template

UNSEEN = 12
"""Levels of 255 by which a packed picture's colour may differ."""


def write_figures(
    figures: Mapping[str, go.Figure],
    folder: str | Path,
    *,
    images: Sequence[str] = ("png",),
    dark: bool = False,
) -> str | None:
    """Write ``NAME.html`` and pictures of every figure; the pages share one ``plotly.min.js``, and follow the reader's
    choice of light or dark.

    Args:
        figures: figures by file name.
        folder: made if it is not there.
        images: ``"png"``, ``"svg"``, ``"pdf"``, or several of them.
        dark: pictures on dark instead of white paper.

    Returns None, or one line that says why there are no pictures (no kaleido, or no working Chrome).
    """
    if not figures:
        raise InputError(
            "`figures` is empty: pass names and figures, write_figures({'kl': layer_curves(agreement)}, folder)"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"displaylogo": False, "responsive": True}
    night = json.dumps(template(dark=True).to_plotly_json())
    shade = (
        "if (matchMedia('(prefers-color-scheme: dark)').matches) {"
        f"document.body.style.background = '{NIGHT}'; Plotly.relayout('{{plot_id}}', {{template: {night}}});}}"
    )
    for name, figure in figures.items():
        page = folder / f"{name}.html"
        figure.write_html(page, include_plotlyjs="directory", config=config, post_script=shade)
    if not images:
        return None
    try:
        import kaleido
    except ImportError:
        return f"No PNG files: kaleido is not installed; {install('export')} adds it."
    jobs = []
    for name, figure in figures.items():
        variant = (
            go.Figure(figure).update_layout(template=template(dark=True), paper_bgcolor=NIGHT)
            if dark
            else figure
        )
        size = {"width": figure["layout"]["width"] or 900, "height": figure["layout"]["height"], "scale": 2}
        for kind in images:
            jobs.append(
                {"fig": variant, "path": str(folder / f"{name}.{kind}"), "opts": {**size, "format": kind}}
            )
    try:
        kaleido.write_fig_from_object_sync(jobs, kopts={"mathjax": False})  # MathJax would come from a CDN
    except Exception as error:  # PNG files are a convenience: whatever ails a browser must not cost the study
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"No PNG files: no working Chrome or Chromium ({why}); install one or set BROWSER_PATH to it."
    return None


def pack_png(file: str | Path) -> None:
    """Write a picture anew in fewer bytes: 256 colours where nobody sees the difference, else all of them; no alpha.

    A channel may differ by `UNSEEN` of 255 at most: curves and bars need few colours, long colour scales all of them.
    """
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    farthest = np.asarray(ImageChops.difference(few.convert("RGB"), picture)).max()
    buffer = io.BytesIO()
    (few if farthest <= UNSEEN else picture).save(buffer, "PNG", optimize=True)
    Path(file).write_bytes(buffer.getvalue())
