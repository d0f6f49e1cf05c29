"""The findings on one page: sentences whose numbers and verdicts come from the manifests that `workbench figures` leaves.

    python -m workbench.studies.findings analyses/FINDINGS.md figures figures/smol

The sentences stand in ``findings.yaml``, and can be true or false; the manifests of every folder of figures, each of one pair,
say which. What is undecided on every pair goes to the end, with the smallest effect that the design would have found.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from workbench.analysis.verdicts import bracketed, times
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.names import STATES
from workbench.views.tables import number

FILE = Path(__file__).with_suffix(".yaml")
OPEN = "What remains open"
_CALL = "workbench figures"


@dataclass(frozen=True)
class Sentence:
    """A claim in words, and where its number stands."""

    section: str
    says: str
    of: str
    """The analysis."""
    measured: str
    """As its manifest has it."""
    claim: str | None = None
    """As its manifest has it, where several claims measure the same."""

    def of_manifest(self, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Its row among the claims of a manifest; None: that pair has none."""
        rows = [row for row in manifest["claims"] if row["measured"] == self.measured]
        rows = [row for row in rows if self.claim in (None, row["claim"])]
        return rows[0] if rows else None


@cache
def sentences() -> tuple[Sentence, ...]:
    """All of them, in order."""
    sections = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(
        Sentence(section["section"], **entry) for section in sections for entry in section["sentences"]
    )


def findings(folders: Sequence[Path]) -> str:
    """The page, as Markdown.

    Args:
        folders: of figures, one a pair.

    Raises:
        InputError: a folder has no manifests, or a sentence's number is in none of them.
    """
    pairs = [_manifests(Path(folder)) for folder in folders]
    sections: dict[str, list[str]] = {sentence.section: [] for sentence in sentences()} | {OPEN: []}
    for sentence in sentences():
        rows = [
            (name, row)
            for name, manifests in pairs
            if sentence.of in manifests and (row := sentence.of_manifest(manifests[sentence.of]))
        ]
        if not rows:
            raise InputError(
                f"`folders`: no manifest of {sentence.of!r} has a number for {sentence.measured!r}; make it first: "
                f"{_CALL} {sentence.of}"
            )
        decided = any(row["adjusted"] in (STATES[True], STATES[False]) for _, row in rows)
        sections[sentence.section if decided else OPEN].append(_bullet(sentence, rows))
    names = ", ".join(f"`{name}`" for name, _ in pairs)
    count = "one small pair" if len(pairs) == 1 else f"{len(pairs)} small pairs"
    lines = [
        "# Findings",
        "",
        f"Measured on {count}, {names}; made from the tables in `figures/` by",
        f"`python -m workbench.studies.findings analyses/FINDINGS.md {' '.join(map(_shown, folders))}`. Numbers stand with their",
        "95% intervals over problems; verdicts are those after Holm's adjustment within their table. LOG.md has the whole story.",
    ]
    for section, bullets in sections.items():
        if bullets:
            lines += ["", f"## {section}", "", *bullets]
    return "\n".join(lines) + "\n"


def _manifests(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name of the pair, and its manifests by analysis."""
    manifests = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    }
    manifests = {name: one for name, one in manifests.items() if isinstance(one, dict) and one.get("claims")}
    if not manifests:
        raise InputError(
            f"`folders`: {_shown(folder)} has no manifests of figures; make some: {_CALL} --out {_shown(folder)}"
        )
    names = {one["pair"]["pair"] for one in manifests.values()}
    if len(names) > 1:
        raise InputError(
            f"`folders`: {_shown(folder)} holds figures of {', '.join(sorted(names))}; give each pair a folder: "
            f"{_CALL} --pair {min(names)} --out {_shown(folder)}/{min(names)}"
        )
    return names.pop(), manifests


def _bullet(sentence: Sentence, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """One line: the claim, and of every pair verdict, number, interval and problems; then the command."""
    parts = []
    for name, row in rows:
        interval, problems = Interval.in_row(row, "estimate"), int(row["problems"])
        factor = "(a factor)" in row["measured"]
        value = times(interval) if factor else bracketed(interval)
        verdict = {STATES[True]: "holds", STATES[False]: "does not hold"}.get(row["adjusted"], "undecided")
        part = f"**{verdict}** on `{name}`, {value}, {problems} problems"
        if verdict == "undecided":
            effect = interval.detectable(units=problems, factor=factor)
            part += f" (would find {'a factor of ' * factor}{number(effect)})"
        parts.append(part)
    return f"- {sentence.says[0].upper()}{sentence.says[1:]}: {'; '.join(parts)}. `{_CALL} {sentence.of}`"


def _shown(folder: Path) -> str:
    return Path(folder).as_posix()


def main(arguments: Sequence[str]) -> int:
    """Write the page into the first argument, from the folders that follow; ``figures`` where none does."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    out, *folders = arguments
    try:
        text = findings([Path(folder) for folder in folders or ["figures"]])
    except InputError as error:
        print(f"findings: {error}", file=sys.stderr)
        return 2
    Path(out).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
