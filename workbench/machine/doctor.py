"""What is installed here, what works, what would fail and how to mend it.

Nothing here needs a network, and a check that breaks is a finding, not a crash.
"""

import importlib
import json
import math
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import __version__
from workbench.digests import file_digest
from workbench.machine import hardware as machine
from workbench.machine.hardware import STATUSES, Check
from workbench.views import markup

if TYPE_CHECKING:
    import pandas as pd
    from packaging.requirements import Requirement
    from rich.table import Table

DISTRIBUTION = "replay-workbench"
WEIGHTS = Path(__file__).parents[1] / "organism" / "weights"
EXTRAS = {
    "notebooks": "the notebooks",
    "export": "PNG files of the figures",
    "train": "training the bundled pair, easy-vqa problems, and data sets of the hub",
    "video": "movie files",
    "vllm": "responses drawn by vLLM",
    "lmms-eval": "tasks of lmms-eval, in an environment of its own",
    "ray": "sweeps on a Ray cluster",
    "slurm": "sweeps on Slurm",
    "attribution": "attribution to heads and MLPs, by TransformerLens",
    "dev": "the tests",
}


@dataclass(frozen=True, eq=False, repr=False)
class DoctorReport:
    """All findings of `doctor`, in order; `rich.print` shows them as a table."""

    rows: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 if nothing failed, else 1."""
        return int(any(row.status == "fail" for row in self.rows))

    @property
    def summary(self) -> str:
        """The report in one line."""
        count = {status: sum(row.status == status for row in self.rows) for status in STATUSES}
        verdict = "`workbench study` runs here" if not self.exit_code else "`workbench study` would fail here"
        return f"{verdict}: {count['ok']} ok, {count['warn']} warn, {count['fail']} fail"

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per check: check, found, status (ok, warn or fail), advice."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def __repr__(self) -> str:
        return f"DoctorReport({self.summary})"

    def __rich__(self) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title="workbench doctor", caption=self.summary, box=box.SIMPLE, caption_justify="left")
        for name in ("", "check", "found", "advice"):
            table.add_column(name, overflow="fold")
        for row in self.rows:  # as Text, for brackets in advice are not markup
            status = Text(row.status, STATUSES[row.status])
            table.add_row(status, Text(row.check), Text(row.found), Text(row.advice))
        return table

    def _repr_html_(self) -> str:
        frame = self.to_dataframe()
        wrong = frame.loc[frame["status"] != "ok"]
        faults = markup.table(wrong) if len(wrong) else ""
        every = markup.folded(f"all {len(frame)} checks", markup.table(frame))
        return markup.paragraph(self.summary, strong=True) + faults + every


def doctor() -> DoctorReport:
    """Examine this machine, in a few seconds and without a network."""
    rows: list[Check] = []
    for examine in CHECKS:
        try:
            rows += examine()
        except Exception as error:  # what breaks a check would break the work too
            name = examine.__name__.strip("_").replace("_", " ")
            advice = "mend the failures above first; if there are none, report this as a bug"
            rows.append(Check(name, f"{type(error).__name__}: {error}", "fail", advice))
    return DoctorReport(tuple(rows))


# --- versions


def _versions() -> Iterator[Check]:
    python, needed = _requirements()
    here = platform.python_version()
    within = python.contains(here, prereleases=True)
    status, advice = ("ok", "") if within else ("fail", f"create an environment with Python {python}")
    yield Check("python", f"{here} on {platform.system()} {platform.machine()}", status, advice)
    try:
        yield Check(DISTRIBUTION, metadata.version(DISTRIBUTION))
    except metadata.PackageNotFoundError:
        advice = "the command `workbench` is missing: pip install -e . in the folder of pyproject.toml"
        yield Check(DISTRIBUTION, f"{__version__}, source tree only", "warn", advice)
    for requirement in needed.pop(""):
        wrong = _unmet(requirement)
        state = wrong or metadata.version(requirement.name)
        status, advice = ("fail", f"pip install {_quoted([requirement])}") if wrong else ("ok", "")
        yield Check(requirement.name, state, status, advice)
    for extra, requirements in needed.items():
        unmet = {r: wrong for r in requirements if (wrong := _unmet(r))}
        if unmet:
            state = "; ".join(f"{r.name} {wrong}" for r, wrong in unmet.items())
            use = EXTRAS.get(extra, f"the extra {extra}")
            yield Check(f"extra {extra}", state, "warn", f"for {use}: pip install {_quoted(unmet)}")
        else:
            yield Check(f"extra {extra}", "complete")


def _requirements() -> "tuple[Any, dict[str, list[Requirement]]]":
    """The Python versions asked for, and the requirements of the core ("") and of every extra."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    grouped: dict[str, list[Requirement]] = {"": []}
    try:
        described = metadata.metadata(DISTRIBUTION)
        python = described["Requires-Python"] or ""
        grouped |= {extra: [] for extra in described.get_all("Provides-Extra") or []}
        for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or []):
            asking = [
                e for e in grouped if not requirement.marker or requirement.marker.evaluate({"extra": e})
            ]
            if asking:  # none: for another platform
                grouped[asking[0]].append(requirement)
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
        python = project["requires-python"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        grouped = {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}
    own = {extra: [r for r in lines if r.name != DISTRIBUTION] for extra, lines in grouped.items()}
    return SpecifierSet(python), own


def _unmet(requirement: "Requirement") -> str:
    """What is wrong with an installed requirement; nothing if it is met."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "missing"
    within = requirement.specifier.contains(version, prereleases=True)
    return "" if within else f"{version}, outside {requirement.specifier}"


def _quoted(requirements: "Any") -> str:
    return " ".join(f'"{r.name}{r.specifier}"' for r in requirements)


def _imports() -> Iterator[Check]:
    broken = []
    for name in ("torch", "torchvision", "transformers", "nnsight"):
        try:
            importlib.import_module(name)
        except Exception as error:  # a binary that does not fit raises anything
            advice = f"pip install --force-reinstall {name}"
            if name == "torchvision":
                advice = "torch and torchvision must fit each other: pip install --upgrade torch torchvision"
            broken.append(Check(f"import {name}", f"{type(error).__name__}: {error}", "fail", advice))
    yield from broken or [Check("imports", "torch, torchvision, transformers, nnsight load")]


# --- browser, bundled pair, network


def _png_export() -> Iterator[Check]:
    advice = "figures are written as HTML only; for PNG: "
    if find_spec("kaleido") is None or find_spec("choreographer") is None:
        yield Check("PNG export", "kaleido is missing", "warn", f'{advice}pip install "kaleido>=1"')
        return
    from choreographer.browsers.chromium import Chromium  # kaleido's own way to find the browser

    path = Chromium.find_browser(skip_local=False)
    if not path:
        advice += "install Chrome or Chromium, or run plotly_get_chrome"
        yield Check("PNG export", "no Chrome or Chromium", "warn", advice)
        return
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=8, check=True)
        yield Check("PNG export", f"{run.stdout.strip()} at {path}")
    except (OSError, subprocess.SubprocessError) as error:
        advice += "set BROWSER_PATH to a Chrome that starts, or run plotly_get_chrome"
        yield Check("PNG export", f"{path} does not start ({type(error).__name__})", "warn", advice)


def _bundled_pair() -> Iterator[Check]:
    model = ("config.json", "model.safetensors")
    for side, needed in {"base": (*model, "tokenizer.json"), "rlvr": model}.items():
        state, wrong = _examine_weights(side, needed)
        advice = "install the package again (in a clone: git checkout workbench/organism/weights)"
        yield Check(f"bundled pair, {side}", state, *(("fail", advice) if wrong else ()))


def _examine_weights(side: str, needed: tuple[str, ...]) -> tuple[str, bool]:
    """What one side of the bundled pair is, or what is wrong with it, and whether anything is."""
    missing = [name for name in needed if not (WEIGHTS / side / name).is_file()]
    if missing:
        return f"missing {', '.join(missing)}", True
    try:
        kind = json.loads((WEIGHTS / side / "config.json").read_text("utf-8"))["model_type"]
        count = _parameters(WEIGHTS / side / "model.safetensors")
    except Exception as error:  # truncated, or a pointer instead of the file
        return f"unreadable ({type(error).__name__}: {error})", True
    listed = {
        path: digest for path, digest in _listed_digests(WEIGHTS).items() if path.startswith(f"{side}/")
    }
    changed = [path for path, digest in listed.items() if _digest(WEIGHTS / path) != digest]
    if changed:
        return f"not the published {', '.join(changed)}", True
    digests = ", digests as published" if listed else ""
    return f"{kind}, {count / 1e6:.2f} M parameters{digests}", False


def _parameters(path: Path) -> int:
    """Parameters of a safetensors file; raises if it is truncated or something else."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118


def _listed_digests(folder: Path) -> dict[str, str]:
    """SHA-256 by file of base/ and rlvr/, from any line of the card or of SHA256SUMS that names both."""
    digests = {}
    for document in [*sorted(folder.glob("*.md")), folder / "SHA256SUMS"]:
        for line in document.read_text("utf-8").splitlines() if document.is_file() else ():
            digest = re.search(r"\b[0-9a-f]{64}\b", line)
            path = re.search(r"\b(?:base|rlvr)/[\w./-]*\w", line)
            if digest and path:
                digests[path[0]] = digest[0]
    return digests


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else "missing"


def _network() -> Iterator[Check]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    state = "not needed: the bundled pair, problems and reports are all local"
    advice = "only hub ids ('owner/name') and 'hf:' problems download, once, from the Hugging Face hub"
    if offline:
        advice = "HF_HUB_OFFLINE is set: hub ids work only if they are in the local cache"
    yield Check("network", state, "ok", advice)


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _versions,
    _imports,
    machine.hardware,
    machine.memory,
    machine.disk,
    machine.dtypes,
    machine.bfloat16,
    machine.attention,
    _png_export,
    _bundled_pair,
    _network,
)
