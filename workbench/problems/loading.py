"""What loading found: the closing line that says how many rows, pictures and verifiers, and what was left out and why."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.problems.problem import Problem


@dataclass
class Notes:
    """What a source left out, or changed, on the way: reason to count."""

    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, count: int = 1) -> None:
        """Count something that was left out or changed, under a reason that stands before its number."""
        self.left_out[reason] += count


class Problems(list["Problem"]):
    """The problems of a source, and what was left out of it: a list in all else."""

    def __init__(self, problems: Iterable["Problem"] = (), notes: Notes | None = None) -> None:
        super().__init__(problems)
        self.notes = notes or Notes()
        self.read = notes is not None
        """Whether they were read from a file, a folder or a data set, rather than generated."""

    @property
    def told(self) -> str:
        """The closing line of loading: rows, pictures, verifiers by kind, what was left out and why."""
        pictures, movies = sum(len(p.images) for p in self), sum(bool(p.video) for p in self)
        text = sum(not p.images and not p.video for p in self)
        verifiers = Counter(p.verifier.value for p in self)  # type: ignore[union-attr]
        unanswered = sum(p.answer is None for p in self)
        parts = [_many(len(self), "problem"), _many(pictures, "picture")]
        parts += [_many(movies, "video")] if movies else []
        parts += [f"{text} of text alone"] if text and text < len(self) else []
        parts.append(
            "answers by " + ", ".join(f"{kind} {count}" for kind, count in sorted(verifiers.items()))
        )
        parts += [f"{unanswered} without an answer"] if unanswered else []
        reasons = [f"{reason}: {count}" for reason, count in sorted(self.notes.left_out.items())]
        return "; ".join(parts) + (f". Left out or changed: {'; '.join(reasons)}" if reasons else "")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
