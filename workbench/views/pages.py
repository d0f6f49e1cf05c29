"""Self-contained HTML pages: templates, data inside a script element, and a file that is whole or not there.

A content security policy in every template forbids the page to fetch anything. Text of prompts and tokens reaches
a page through Jinja's autoescaping, or as JSON without a ``<``, and scripts only ever set it as text.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from workbench.errors import InputError
from workbench.views.markup import escape


def render(template: str, **values: Any) -> str:
    """A page from one of ``templates/``."""
    environment = Environment(
        loader=PackageLoader("workbench.views"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def source(*names: str) -> Markup:
    """CSS or JavaScript of ``templates/``, one file after another, as it goes into a style or script element."""
    folder = Path(__file__).parent / "templates"
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in names))


def inline_json(content: Any) -> Markup:
    """JSON that is safe inside a script element: no ``<``, so neither ``</script`` nor ``<!--``."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def frame(page: str, title: str, height: int) -> str:
    """A page inside a frame, for a notebook: the frame keeps the page's style and keys apart from what is around it."""
    # In ASCII alone: right in whatever encoding the page around it was saved.
    document = escape(page).encode("ascii", "xmlcharrefreplace").decode()
    return (
        f'<iframe srcdoc="{document}" title="{escape(title)}" width="100%" '
        f'height="{height}" style="border:0;display:block;max-width:100%" loading="lazy"></iframe>'
    )


def write_page(path: str | Path, html: str) -> Path:
    """Write a page and return its path; an old one is replaced only once the new one is whole.

    Raises:
        InputError: the path cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(html)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"`path` {str(path)!r} cannot be written ({error}): name a file in a folder that can, such as "
            "'run/report.html'"
        ) from error
    return path
