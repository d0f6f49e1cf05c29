"""Cells of a sweep: (pair, problem, intervention, seed), each named by the digest of everything that can change its result.

What counts: the bytes of both models' and the processor's files, how the pair is asked, every text and pixel of the problem,
the intervention's settings, samples and how they are drawn, device and threads, the workbench's own code, the versions of the
libraries that compute. What does not: names, places, the order of cells, the number of workers, the engine.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.conditions import Named, condition_of, signature_of
from workbench.digests import digest_of, file_digest, versions
from workbench.errors import InputError
from workbench.models.adapter_files import find_adapter
from workbench.models.gguf import gguf_file, packaged
from workbench.models.presets import ROLES
from workbench.sweeps.spec import PairSource, ProblemSet, Sweep, depth_of, seeded

if TYPE_CHECKING:
    from workbench.problems.problem import Problem

_READ = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Files of a checkpoint that loading reads."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One (pair, problem, intervention, seed)."""

    key: str
    """Of its content: 32 hexadecimal digits."""
    pair: str
    problems: str
    """The set's label."""
    problem: str
    intervention: str
    seed: int

    @property
    def name(self) -> str:
        """What it is called in one line."""
        return f"{self.pair} | {self.problems} | {self.problem} | {self.intervention} | seed {self.seed}"


digest = partial(digest_of, digits=32)
"""32 hexadecimal digits that stand for a value of JSON's types."""


def pair_identity(source: PairSource) -> dict[str, Any]:
    """What makes a pair's results what they are.

    Raises:
        InputError: a model is not on this machine.
    """
    preset = source.preset
    identity: dict[str, Any] = {role: digests(folder_of(source, role)) for role in ROLES}
    identity["dtype"] = source.dtype or (preset.dtype if preset else None)
    if preset is None:
        return identity
    if preset.processor is not None:
        identity["processor"] = digests(folder_of(source, preset.processor))
    if source.checkpoint is not None:
        identity["checkpoint"] = _digest(preset.changes[source.checkpoint])
    identity |= {
        "asked": preset.in_words(),
        "image_pixels": preset.image_pixels,
        "frame_pixels": preset.frame_pixels,
    }
    return identity


def folder_of(source: PairSource, role: str) -> Path:
    """Where a model's files lie on this machine.

    Raises:
        InputError: nowhere.
    """
    preset = source.preset
    if preset is not None:
        named, folder = str(preset.source(role)), preset.found(role)
        if folder is None and Path(named).is_dir():
            folder = Path(named)
    else:
        named = str(getattr(source, role))
        folder = Path(named).expanduser()
        if not folder.is_dir():
            from huggingface_hub import try_to_load_from_cache

            file = None if folder.is_absolute() else try_to_load_from_cache(named, "config.json")
            folder = Path(file).parent if isinstance(file, str) else None
    if folder is None or not folder.is_dir():
        advice = "" if Path(named).is_absolute() else f"get it with `hf download {named}`, or "
        raise InputError(
            f"`pairs`: {named} is not on this machine; {advice}name a folder: "
            "{base: runs/my-base, rlvr: runs/my-rlvr}"
        )
    return folder


def digests(folder: Path) -> dict[str, str]:
    """File to sha256, of the files of a checkpoint. Large files in the hub's cache are named by it.

    Of an adapter, those of the model that its config names too, where they are on this machine under that name.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix in _READ and p.is_file())
    by_file = {file.name: _digest(file) for file in files}
    adapter = find_adapter("pair", folder)
    if adapter is not None and packaged(adapter.base):
        by_file[str(adapter.base)] = _digest(gguf_file(str(adapter.base)))
    elif adapter is not None and adapter.base is not None and Path(adapter.base).is_dir():
        by_file |= {f"base/{name}": sha for name, sha in digests(Path(adapter.base)).items()}
    return by_file


def _digest(file: Path) -> str:
    blob = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    return file_digest(file)


def drawing(sweep: Sweep, pair: PairSource, device: str) -> dict[str, Any]:
    """Settings of the responses to a pair's problems, and where and with what they are computed."""
    longest = pair.preset.longest_answer if pair.preset else 1024
    return {
        "samples": sweep.samples,
        "temperature": sweep.temperature,
        "max_new_tokens": sweep.max_new_tokens or longest,
        "device": device,
        "threads": sweep.threads if device == "cpu" else None,
        "versions": versions(),
    }


def cell_key(pair: str, problem: str, condition: str, seed: int, settings: str) -> str:
    """The digest that names a cell, from the digests of its parts."""
    return sha256(f"{pair} {problem} {condition} {seed} {settings}".encode()).hexdigest()[:32]


def condition_digest(condition: Named, seed: int) -> str:
    """Of an intervention's kind and settings, as a cell of this seed runs it."""
    return digest(signature_of(seeded(condition, seed)))


def load_set(problems: ProblemSet) -> "list[Problem]":
    """The problems of a set.

    Raises:
        InputError: what `load_problems` refuses, or a problem without an answer.
    """
    from workbench.problems.problem import load_problems

    loaded = load_problems(problems.source, split=problems.split, limit=problems.limit, seed=problems.seed)
    for problem in loaded:
        if problem.answer is None:
            raise InputError(
                f"`problems`: {problem.id!r} of {problems.source!r} has no answer to verify responses with; "
                "give one, or leave it out"
            )
    return loaded


def device_of(sweep: Sweep) -> str:
    """``cpu`` or ``cuda``: what the sweep says, else the GPU where there is one."""
    if sweep.device is not None:
        return sweep.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def identity_of(sweep: Sweep, device: str) -> dict[str, Any]:
    """What the keys of a plan are made of, beside problems and interventions; every file is read.

    Of JSON's types alone, so that it equals what a ledger recorded of it.

    Raises:
        InputError: a model is not on this machine.
    """
    identity = {
        "versions": versions(),
        "pairs": {
            pair.title: {"files": pair_identity(pair), "drawing": digest(drawing(sweep, pair, device))}
            for pair in sweep.pairs
        },
    }
    return json.loads(json.dumps(identity))


def plan_cells(sweep: Sweep, device: str, identity: Mapping[str, Any] | None = None) -> list[Cell]:
    """Every cell, in the order of the exported tables: pair, problem set, problem, intervention, seed.

    `identity` is what `identity_of` found, where it is known already.

    Raises:
        InputError: a pair or problem set that is not on this machine, or an intervention deeper than the models.
    """
    cells: list[Cell] = []
    identity = identity or identity_of(sweep, device)
    sets = [(problems, load_set(problems)) for problems in sweep.problems]
    fingerprints = {problems.label: [problem.fingerprint for problem in loaded] for problems, loaded in sets}
    for pair in sweep.pairs:
        files, settings = (
            digest(identity["pairs"][pair.title]["files"]),
            identity["pairs"][pair.title]["drawing"],
        )
        conditions = sweep.conditions(pair, depth_of(pair) or 28)
        for problems, loaded in sets:
            work = [
                (name, condition_digest(condition, seed), seed)
                for name, condition in conditions.items()
                for seed in sweep.seeds
                if not sweep.excluded(pair, problems, name, condition, seed)
            ]
            for problem, fingerprint in zip(loaded, fingerprints[problems.label], strict=True):
                for name, condition, seed in work:
                    key = cell_key(files, fingerprint, condition, seed, settings)
                    cells.append(Cell(key, pair.title, problems.label, problem.id, name, seed))
    return cells


def settings_rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A row for each pair's intervention, with the values of its fields."""
    for pair in sweep.pairs:
        for name, condition in sweep.conditions(pair, depth_of(pair) or 28).items():
            settings: Mapping[str, Any] = (
                {} if isinstance(condition, str) else condition_of(condition).described
            )
            kind = "plain" if isinstance(condition, str) else type(condition).__name__.lower()
            yield {"pair": pair.title, "intervention": name, "kind": kind, **settings}


def by_problem(cells: Sequence[Cell]) -> dict[tuple[str, str, str], list[Cell]]:
    """Cells that share a pair and a problem, and with them what is computed once."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.pair, cell.problems, cell.problem), []).append(cell)
    return groups
