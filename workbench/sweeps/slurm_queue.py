"""What Slurm says of jobs: whether they wait, run or are over, and how they ended.

1. ``squeue`` tells of jobs that wait or run, and for some minutes (MinJobAge) of those that are over; it needs no accounting.
2. A job that two looks in a row do not find is over. A look that Slurm did not answer tells nothing.
3. How a job ended that ``squeue`` has forgotten, ``sacct`` tells where there is accounting; elsewhere nobody knows.
"""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from workbench.errors import InputError

ENDED = frozenset(
    (
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    )
)
"""States of a job that will not go on by itself."""
LOOKS = (2.0, 30.0)
"""Seconds between two looks: at least, and at most while nothing changes."""
SILENT = (30.0, 900.0)
"""Seconds without an answer of Slurm until that is said, and until it is an error."""
PATIENCE = 60.0
"""Seconds that one command of Slurm's may take."""

Slot = tuple[str, int]
"""A job's name, which no other submission has, and its place in the array."""


@dataclass(frozen=True)
class Seen:
    """A job as Slurm tells of it."""

    job: str
    """``123`` or ``123_4``."""
    state: str
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether it will not go on by itself."""
        return self.state in ENDED

    @property
    def words(self) -> str:
        """``TIMEOUT (TimeLimit)``."""
        return f"{self.state} ({self.reason})" if self.reason not in ("", "None") else self.state


@dataclass
class Queue:
    """Looks at one's own jobs, seldom enough for a cluster's controller."""

    clock: Callable[[], float] = time.monotonic
    jobs: dict[Slot, Seen] = field(default_factory=dict)
    """As they were last seen."""
    _missed: Counter[Slot] = field(default_factory=Counter)
    _looked: float = float("-inf")
    _answered: float = float("-inf")
    _changed: float = float("-inf")
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._answered = self._changed = self.clock()

    def touch(self) -> None:
        """Something changed: look again soon."""
        self._changed = self.clock()

    def look(self, slots: Iterable[Slot]) -> list[str]:
        """See how jobs are, unless that was just done; what a person should know of it, each thing once.

        Raises:
            InputError: Slurm has not answered for too long.
        """
        now, (least, most) = self.clock(), LOOKS
        if now - self._looked < min(most, max(least, (now - self._changed) / 4)):
            return []
        self._looked = now
        answer = run(
            "squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%j|%T|%r"
        )
        if answer.returncode:
            return self._unanswered(words_of(answer), now)
        self._answered = now
        jobs = read_queue(answer.stdout)
        for slot in slots:
            if slot in jobs:
                self._missed[slot] = 0
                if self.jobs.get(slot) != jobs[slot]:
                    self._changed = now
                self.jobs[slot] = jobs[slot]
            else:
                self._missed[slot] += 1
        return self._waiting(jobs[slot] for slot in slots if slot in jobs)

    def over(self, slot: Slot) -> bool:
        """Whether a job is over, as far as is known."""
        return (slot in self.jobs and self.jobs[slot].over) or self._missed[slot] > 1

    def ending(self, slot: Slot, job: str) -> str:
        """How a job that is over ended, in Slurm's words."""
        state_of_job = self.jobs.get(slot)
        if state_of_job is not None and state_of_job.over:
            return state_of_job.words
        answer = run(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,ExitCode"
        )
        lines = answer.stdout.split("\n") if not answer.returncode else []
        state, _, code = lines[-2].partition("|") if len(lines) > 1 else ("", "", "")
        return f"{state} (exit code {code})" if state else "nobody knows how"

    def _waiting(self, found: Iterable[Seen]) -> list[str]:
        """What jobs wait for; that is where an impossible wish shows."""
        reasons = Counter(job.reason for job in found if job.state == "PENDING" and job.reason != "None")
        fresh = [reason for reason in reasons if reason not in self._said]
        self._said.update(fresh)
        return [f"Slurm lets {reasons[reason]} of the jobs wait: {reason}" for reason in fresh]

    def _unanswered(self, words: str, now: float) -> list[str]:
        """Words of a failed look: patience, then a sentence, then an error."""
        silent, (say, fail) = now - self._answered, SILENT
        if silent > fail:
            raise InputError(
                f"`engine` slurm: Slurm has not answered for {silent / 60:.0f} minutes ({words}); jobs that run go on, and "
                "`workbench sweep resume ... --engine slurm` takes them over when it answers again"
            )
        if silent < say or "silent" in self._said:
            return []
        self._said.add("silent")
        return [f"Slurm does not answer ({words}); waiting for it"]


def read_queue(text: str) -> dict[Slot, Seen]:
    """Jobs that ``squeue`` listed, a line ``id|name|state|reason`` each; the name may hold a bar."""
    jobs: dict[Slot, Seen] = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) < 4:
            continue
        job, name, state, reason = parts[0], "|".join(parts[1:-2]), parts[-2], parts[-1]
        place = job.partition("_")[2]
        if place.isdigit() or not place:
            jobs[name, int(place or 0)] = Seen(job, state, reason)
    return jobs


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """One of Slurm's commands; one that is not there, or hangs, has failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def words_of(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command that failed said."""
    return " ".join(done.stderr.split()) or f"{done.args[0]} ended with {done.returncode}"
