"""The findings on one page: sentences whose numbers and verdicts come from the manifests that `workbench figures` leaves.

    python -m workbench.studies.findings analyses/FINDINGS.md figures figures/smol figures/shapes-1 ...

The sentences stand in ``findings.yaml``, and can be true or false; the manifests of every folder of figures, each of one pair,
say which. A number that one or two pairs have stands by pair; of more pairs it is pooled (`estimates.pool`), with how many of
them each verdict is of, and each pair's estimate behind its letter. What is undecided on every pair goes to the end, with the
smallest effect that would have been found; a pair on which a claim can't be tested, such as one without narrowing to undo, has
no part in its sentence.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import nan
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml

from workbench.analysis.verdicts import bracketed, times
from workbench.errors import InputError
from workbench.estimates import Interval, pool
from workbench.names import STATES, UNTESTED
from workbench.views.tables import number

FILE = Path(__file__).with_suffix(".yaml")
OPEN, UNDECIDED = "What remains open", "undecided"
APART = 2
"""Pairs up to which a number stands by pair: the mean of two has no interval to speak of."""
_CALL = "workbench figures"


@dataclass(frozen=True)
class Sentence:
    """A claim in words, and where its number stands."""

    section: str
    says: str
    of: str
    """The analysis."""
    measured: str | None = None
    """As its manifest has it; None: ``claim`` alone says which, as where pairs chose settings of their own."""
    claim: str | None = None
    """As its manifest has it, where several claims measure the same."""
    optional: bool = False
    """Left out while no pair has its number."""

    def of_manifest(self, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Its row among the claims of a manifest; None: that pair has none."""
        rows = [row for row in manifest["claims"] if self.measured in (None, row["measured"])]
        rows = [row for row in rows if self.claim in (None, row["claim"])]
        return rows[0] if rows else None


@cache
def sentences() -> tuple[Sentence, ...]:
    """All of them, in order."""
    sections = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(
        Sentence(section["section"], **entry) for section in sections for entry in section["sentences"]
    )


@dataclass(frozen=True)
class _Pair:
    letter: str
    """Which stands before its number where several pairs have one."""
    name: str
    manifests: Mapping[str, Any]
    """By analysis."""

    def weights(self, role: str) -> str:
        """Digest of a model's weights; its name where there is none."""
        about = next(iter(self.manifests.values()))["pair"]
        return str(about.get(role, {}).get("weights") or f"{self.name}/{role}")


def findings(folders: Sequence[Path]) -> str:
    """The page, as Markdown.

    Args:
        folders: of figures, one a pair.

    Raises:
        InputError: a folder has no manifests, two are of one pair, or a sentence's number is in none of them.
    """
    pairs = _lettered(folders)
    used: dict[str, list[int]] = {pair.name: [] for pair in pairs}
    sections: dict[str, list[str]] = {sentence.section: [] for sentence in sentences()} | {OPEN: []}
    for sentence in sentences():
        rows = [
            (pair, row)
            for pair in pairs
            if sentence.of in pair.manifests and (row := sentence.of_manifest(pair.manifests[sentence.of]))
        ]
        tested = [(pair, row) for pair, row in rows if row["adjusted"] != UNTESTED]
        if not tested and (rows or sentence.optional):
            continue
        if not rows:
            raise InputError(
                f"`folders`: no manifest of {sentence.of!r} has a number for {sentence.measured or sentence.claim!r}; "
                f"make it first: {_CALL} {sentence.of}"
            )
        decided = any(row["adjusted"] in (STATES[True], STATES[False]) for _, row in tested)
        sections[sentence.section if decided else OPEN].append(_bullet(sentence, tested))
        for pair, row in tested:
            used[pair.name].append(int(row["problems"]))
    lines = ["# Findings", "", *_head(pairs, folders, used)]
    for section, bullets in sections.items():
        if bullets:
            lines += ["", f"## {section}", "", *bullets]
    return "\n".join(lines) + "\n"


def _head(pairs: Sequence[_Pair], folders: Sequence[Path], used: Mapping[str, Sequence[int]]) -> list[str]:
    """What the page is of, how it was made, and how its lines are read."""
    several = len(pairs) > 1
    count = f"{len(pairs)} small pairs" if several else "one small pair"
    names = ", ".join(f"{pair.letter} = `{pair.name}` ({_span(used[pair.name])})" for pair in pairs)
    shared: dict[str, list[str]] = {}
    for pair in pairs:
        shared.setdefault(pair.weights("base"), []).append(pair.letter)
    one_base = [
        f"; {' and '.join(letters)} have one base model" for letters in shared.values() if len(letters) > 1
    ]
    another = pooled = ""
    if several:
        another = f" (another pair: `--pair {pairs[-1].name} --out {_shown(folders[-1])}`, as many problems: `--limit`)"
        pooled = (
            " Together: a random-effects mean over pairs; I²: how much they differ beyond their intervals."
        )
    return [
        f"Measured on {count} (problems): {names}{''.join(one_base)}. Made by",
        f"`python -m workbench.studies.findings analyses/FINDINGS.md {' '.join(map(_shown, folders))}`.",
        f"A line ends with its analysis: `{_CALL} NAME`{another}. Intervals (95%) are over problems, shifts",
        "below the last layer, their factors (x) those of the lowest fifth of entropy over the highest; verdicts are after",
        "Holm's adjustment within a table; finds: the smallest effect that a design finds with a power of 80%."
        f"{pooled} LOG.md has the whole story.",
    ]


def _span(problems: Sequence[int]) -> str:
    if not problems:
        return "no"
    least, most = min(problems), max(problems)
    return str(least) if least == most else f"{least} to {most}"


def _lettered(folders: Sequence[Path]) -> list[_Pair]:
    """The pairs of some folders, no two of them one."""
    if len(folders) > len(ascii_uppercase):
        raise InputError(
            f"`folders` are {len(folders)}; expected at most {len(ascii_uppercase)}, one a letter"
        )
    pairs: list[_Pair] = []
    for letter, folder in zip(ascii_uppercase, folders, strict=False):
        name, manifests = _manifests(Path(folder))
        pair = _Pair(letter, name, manifests)
        for other in pairs:
            if other.name == name or other.weights("rlvr") == pair.weights("rlvr"):
                raise InputError(
                    f"`folders`: {_shown(folder)} is of the pair {other.name!r}, as another is; it would count twice: name each "
                    f"pair's folder once"
                )
        pairs.append(pair)
    return pairs


def _manifests(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name of the pair, and its manifests by analysis."""
    manifests = {}
    for path in sorted(folder.glob("*.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"`folders`: {_shown(path)} is no JSON ({error}); {_CALL} {path.stem} makes it again"
            ) from None
        if isinstance(manifest, dict) and manifest.get("claims"):
            if not isinstance(manifest.get("pair"), dict) or "pair" not in manifest["pair"]:
                raise InputError(
                    f"`folders`: {_shown(path)} names no pair; {_CALL} {path.stem} makes it again"
                )
            manifests[path.stem] = manifest
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


def _bullet(sentence: Sentence, rows: Sequence[tuple[_Pair, Mapping[str, Any]]]) -> str:
    """One line: the claim, verdict and number by pair or together, with intervals; then the analysis, of which is the command."""
    found = "; ".join(_by_pair(pair, row) for pair, row in rows) if len(rows) <= APART else _together(rows)
    return f"- {sentence.says[0].upper()}{sentence.says[1:]}: {found}. `{sentence.of}`"


def _by_pair(pair: _Pair, row: Mapping[str, Any]) -> str:
    """What one pair shows."""
    interval, problems, factor = Interval.in_row(row, "estimate"), int(row["problems"]), _is_factor(row)
    verdict = _verdict(row)
    part = f"**{verdict}** on {pair.letter}, {_figure(interval, factor=factor)}, {problems} problems"
    effect = interval.detectable(units=problems, factor=factor)
    return part + f" (finds {_effect(effect, factor=factor)})" * (verdict == UNDECIDED)


def _together(rows: Sequence[tuple[_Pair, Mapping[str, Any]]]) -> str:
    """What several pairs show: of how many each verdict is, and the mean over them."""
    by_verdict: dict[str, list[str]] = {}
    for pair, row in rows:
        by_verdict.setdefault(_verdict(row), []).append(pair.letter)
    order = sorted(by_verdict, key=lambda verdict: -len(by_verdict[verdict]))
    first, *others = order
    factor = _is_factor(rows[0][1])
    intervals = [Interval.in_row(row, "estimate") for _, row in rows]
    pooled = pool(intervals, [int(row["problems"]) for _, row in rows], factor=factor)
    text = f"**{first}** on {len(by_verdict[first])} of {len(rows)}"
    text += "".join(f", {verdict} on {' and '.join(by_verdict[verdict])}" for verdict in others)
    if pooled.pairs < 2:  # such as factors whose intervals reach 0
        return f"{text}; {'; '.join(_by_pair(pair, row) for pair, row in rows)}"
    each = ", ".join(
        f"{pair.letter} {_figure(Interval(one.estimate, nan, nan), factor=factor)}"
        for (pair, _), one in zip(rows, intervals, strict=True)
    )
    text += f"; together {_figure(pooled.interval, factor=factor)}, I² {pooled.i2:.0%}, of {each}"
    effect = pooled.interval.detectable(units=pooled.pairs, factor=factor)
    return text + f" (finds {_effect(effect, factor=factor)})" * (UNDECIDED in order)


def _verdict(row: Mapping[str, Any]) -> str:
    return {STATES[True]: "holds", STATES[False]: "does not hold"}.get(row["adjusted"], UNDECIDED)


def _is_factor(row: Mapping[str, Any]) -> bool:
    return "(a factor)" in row["measured"]


def _figure(interval: Interval, *, factor: bool) -> str:
    return times(interval) if factor else bracketed(interval)


def _effect(detectable: float, *, factor: bool) -> str:
    return f"{number(detectable)}x" if factor else number(detectable)


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
