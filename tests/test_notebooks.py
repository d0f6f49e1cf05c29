"""Every notebook, executed as a reader would: no error, what it promises on the page, nothing left in the checkout."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

HOME = Path(__file__).parents[1]
FOLDER = HOME / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
FIGURE = "application/vnd.plotly.v1+json"
FRAME = "<iframe srcdoc="
TABLE = "<table"
WIDGET = "application/vnd.jupyter.widget-view+json"
PROMISED = {
    "01_first_look": {FIGURE: 3, FRAME: 1, TABLE: 3, "<svg": 1, "data:image/png": 2, "&lt;think&gt;": 1},
    "02_entropy_shift": {FIGURE: 3, TABLE: 4, "SFT only": 1, "<details>": 2},
    "03_replay_playground": {FIGURE: 4, FRAME: 2, TABLE: 1, "<polyline": 1},
    "04_your_own_pair": {FRAME: 1, TABLE: 7, "last_loss": 1, "RLVR with replay": 1, "&lt;think&gt;": 2},
    "05_paper_figures": {FIGURE: 6, TABLE: 4, "does NOT hold|holds|is undecided": 1, "VL-Rethinker": 1},
    "06_attribution": {FIGURE: 4, TABLE: 2, "<details>": 1, "most is written by": 1},
    "07_emergence": {FIGURE: 5, TABLE: 2, "precedes|follows|undecided|cannot be told": 1, "Spearman": 1},
    "08_amortised_replay": {FIGURE: 2, TABLE: 2, "validation loss, nats": 1, "&lt;think&gt;": 1},
    "09_entropy_or_proxy": {FIGURE: 3, TABLE: 2, "beyond the others|as a proxy|not at all": 1},
    "10_responses": {FIGURE: 2, FRAME: 1, TABLE: 3, "rank in the base": 1, "top 3": 1},
    "11_live_bench": {WIDGET: 1, TABLE: 1, "&lt;think&gt;": 5, "zeroed": 1},
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def checkout() -> dict[Path, int]:
    """Every file and when it was last written, but for caches."""
    kept = (p for p in HOME.rglob("*") if p.is_file() and not p.relative_to(HOME).parts[0].startswith("."))
    return {p: p.stat().st_mtime_ns for p in kept if "__pycache__" not in p.parts}


@pytest.fixture(scope="module", params=NAMES)
def executed(request, tmp_path_factory):
    """The name, the notebook after execution, and what execution changed in the checkout."""
    notebook, apart = read(request.param), tmp_path_factory.mktemp(request.param)
    notebook.cells.append(nbformat.v4.new_code_cell("import workbench\nworkbench.__file__"))
    before = checkout()
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(apart),
    }
    environment |= {"IPYTHONDIR": str(apart / "ipython"), "PLOTLY_RENDERER": "plotly_mimetype"}
    # Without folders of kernels there is one left: that of this very interpreter.
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=240,
        store_widget_state=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    try:
        client.execute(env=environment)
    finally:
        run_sync(kernel.shutdown_kernel)(now=True)  # whose kernel is given is not asked to end it
    if keep := os.environ.get("WORKBENCH_KEEP_NOTEBOOKS"):  # for the pages, which show them as they ran
        Path(keep).mkdir(parents=True, exist_ok=True)
        nbformat.write(
            nbformat.from_dict({**notebook, "cells": notebook.cells[:-1]}),
            Path(keep) / f"{request.param}.ipynb",
        )
    after = checkout()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    (imported,) = notebook.cells.pop()["outputs"]
    assert Path(ast.literal_eval(imported["data"]["text/plain"])).parents[1] == HOME
    return request.param, notebook, changed


def shown(notebook: nbformat.NotebookNode) -> list[dict]:
    return [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] in ("display_data", "execute_result")
    ]


def test_all_are_there():
    assert list(PROMISED) == NAMES


def test_it_runs_and_shows_what_it_promises(executed):
    name, notebook, changed = executed
    streams = [o for cell in notebook.cells for o in cell.get("outputs", []) if o["output_type"] == "stream"]
    assert [output for output in streams if output["name"] == "stderr"] == []
    bundles = shown(notebook)
    for what, least in PROMISED[name].items():
        found = [
            data
            for data in bundles
            if what in data or any(word in str(data.get("text/html", "")) for word in what.split("|"))
        ]
        assert len(found) >= least, (what, len(found))
    assert changed == set()
    pages = [page for data in bundles if FRAME not in (page := str(data.get("text/html", "")))]
    assert not [
        page for page in pages if "<think>" in page or "<script" in page
    ]  # what models say is escaped
    if name == "03_replay_playground":
        sliders_have_learned_and_answered(notebook)


def sliders_have_learned_and_answered(notebook: nbformat.NotebookNode) -> None:
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    states = [widget["state"] for widget in widgets.values()]
    assert {"tau", "alpha", "layers (K)", "layer"} <= {state.get("description") for state in states}
    ((output,),) = [state["outputs"] for state in states if state.get("outputs")]
    assert "samples_right" in output["data"]["text/html"]
    assert "<polyline" in output["data"]["text/html"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_plain_and_without_a_trace_of_a_run(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    stored = json.loads(text)
    assert text == json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    nbformat.validate(nbformat.from_dict(stored))
    assert stored["metadata"]["kernelspec"] == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    assert stored["cells"][0]["cell_type"] == "markdown"


@pytest.mark.parametrize("name", NAMES)
def test_it_calls_the_library_and_defines_nothing(name):
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    imports = set()
    for cell in read(name).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            assert not [node for node in ast.walk(tree) if isinstance(node, defined)], cell.source
            assert max(map(len, cell.source.splitlines())) <= 92, cell.source  # a page of 900 pixels
            imports |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
            imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert any(module.startswith("workbench") for module in imports)
