"""What Slurm, Ray and vLLM do to a sweep or an answer, by their words alone; the systems themselves: `tests/sweeps/*_real.py`,
`tests/harness/vllm`."""

import subprocess
import tomllib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import standin
import tiny
from packaging.requirements import Requirement

from workbench.decoding.decode import decode
from workbench.decoding.vllm_engine import _engine
from workbench.errors import InputError
from workbench.models.loading import load_pair
from workbench.sweeps import ray_cluster, slurm_engine, slurm_queue
from workbench.sweeps.cells import Cell
from workbench.sweeps.engines import DEATHS, Stop
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.slurm_jobs import Part, Refused
from workbench.sweeps.slurm_queue import LOOKS, SILENT, Queue

SLOT = ("sweep-0a", 0)


# --- Slurm: what it says of jobs -------------------------------------------------------------------------


@pytest.fixture
def slurm(monkeypatch) -> dict[str, tuple[int, str]]:
    """What each of Slurm's commands answers: (exit code, words)."""
    answers = {"squeue": (0, ""), "sacct": (1, "Slurm accounting storage is disabled")}

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        code, said = answers[command[0]]
        return subprocess.CompletedProcess(command, code, "" if code else said, said if code else "")

    monkeypatch.setattr(slurm_queue, "run", run)
    return answers


def patient() -> Queue:
    """A queue whose every look is late enough."""
    clock = count(0, LOOKS[1])
    return Queue(clock=lambda: float(next(clock)))


def test_a_job_that_died_is_over_without_accounting(slurm):
    """Protects from a driver that waits for ever where `sacct` does not answer."""
    queue = patient()
    slurm["squeue"] = (0, "7_0|sweep-0a|RUNNING|None\n")
    queue.look([SLOT])
    assert not queue.over(SLOT)
    slurm["squeue"] = (0, "")
    queue.look([SLOT])
    assert not queue.over(SLOT)  # one look may miss it
    queue.look([SLOT])
    assert queue.over(SLOT)
    assert queue.ending(SLOT, "7_0") == "nobody knows how"
    slurm["sacct"] = (0, "OUT_OF_MEMORY|0:125\n")
    assert queue.ending(SLOT, "7_0") == "OUT_OF_MEMORY (exit code 0:125)"


def test_a_slurm_that_does_not_answer_ends_no_job(slurm):
    """Protects from jobs counted as dead because the controller was restarted."""
    queue = patient()
    slurm["squeue"] = (0, "7_0|sweep-0a|RUNNING|None\n")
    queue.look([SLOT])
    slurm["squeue"] = (1, "slurm_load_jobs error: Unable to contact slurm controller")
    words = [said for _ in range(3) for said in queue.look([SLOT])]
    assert words == [
        "Slurm does not answer (slurm_load_jobs error: Unable to contact slurm controller); waiting for it"
    ]
    assert not queue.over(SLOT)
    looks = int(SILENT[1] / LOOKS[1]) + 1
    with pytest.raises(InputError, match=r"has not answered for \d+ minutes \(slurm_load_jobs"):
        [queue.look([SLOT]) for _ in range(looks)]


# --- Slurm: what becomes of cells ------------------------------------------------------------------------


class Fleet:
    """Jobs that die as a test says: each gets on by so many cells before it does."""

    def __init__(self, folder: Path, progress: Iterator[int]) -> None:
        self.folder, self.inbox, self.queue, self.job = (
            folder,
            folder / "inbox",
            None,
            SimpleNamespace(text=""),
        )
        self.inbox.mkdir()
        self.progress, self.jobs = progress, 0

    def submit(self, parts: list[Part]) -> None:
        for part in parts:
            self.jobs, part.landed = self.jobs + 1, False
            part.job = str(self.jobs)
            for cell in part.cells[: next(self.progress)]:
                (self.inbox / f"{cell.key}.json").write_text(
                    f'{{"key": "{cell.key}", "result": {{}}, "worker": "node:1 (job {part.job})"}}'
                )

    def adopt(self, left: object) -> tuple[list[Part], list[Part]]:
        return [], []

    def look(self, parts: object) -> list[str]:
        return []

    def over(self, part: Part) -> bool:
        return True

    def ending(self, part: Part) -> str:
        return "NODE_FAIL"

    def at(self, part: Part) -> str:
        return part.cells[0].key


def driven(
    folder: Path, cells: int, progress: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> list[Outcome]:
    monkeypatch.setattr(slurm_engine, "POLL", 0)
    planned = [Cell(f"{i:032x}", "pair", "set", f"q{i}", "t", 0) for i in range(cells)]
    fleet: Any = Fleet(folder, progress)
    driver = slurm_engine._Driver(fleet, {cell.key: cell for cell in planned}, [], 1, Stop())
    return [said for said in driver.run([]) if isinstance(said, Outcome)]


def test_kills_after_progress_are_not_counted(tmp_path, monkeypatch):
    """Protects from five kills in a whole run that give up what each of them had got on with (72 of 96 cells)."""
    outcomes = driven(tmp_path, 3 * DEATHS, iter([0, 1] * 3 * DEATHS), monkeypatch)
    assert [outcome.status for outcome in outcomes] == ["done"] * 3 * DEATHS


def test_kills_in_a_row_cost_the_cell_at_fault_and_name_the_job(tmp_path, monkeypatch):
    """Protects from all cells given up for one, and from a worker without a name."""
    outcomes = driven(tmp_path, 4, iter([1, *[0] * DEATHS, 9]), monkeypatch)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [outcome.status for outcome in outcomes].count("done") == 3
    assert [outcome.key for outcome in failed] == [f"{1:032x}"]
    assert failed[0].worker == f"job {DEATHS + 1}"
    assert f"its job ended, {DEATHS} times in a row: NODE_FAIL" in failed[0].reason


def test_what_slurm_refuses_is_an_error_in_its_words(tmp_path, monkeypatch):
    """Protects from a traceback about a job's attributes."""

    def refused(self: Fleet, parts: object) -> None:
        raise Refused("sbatch: error: invalid partition specified: nowhere")

    monkeypatch.setattr(Fleet, "submit", refused)
    monkeypatch.setattr(slurm_engine, "_settings", lambda job: {"slurm_partition": "nowhere"})
    with pytest.raises(
        InputError, match=r"'slurm_partition': 'nowhere'.*Slurm refused the jobs: sbatch: error: invalid part"
    ):
        driven(tmp_path, 1, iter([]), monkeypatch)


# --- Ray -------------------------------------------------------------------------------------------------


def test_a_cluster_that_does_not_listen_is_not_told_as_a_full_disk():
    """Protects from Ray's own retries, which end the process, and from words about the disk."""
    with pytest.raises(
        InputError, match=r"the cluster at 127\.0\.0\.1:1 can't be joined: its head \(.*Connection refused"
    ) as refused:
        ray_cluster._try("127.0.0.1:1", "127.0.0.1:1")
    assert "RAY_ADDRESS=local" in str(refused.value)
    assert "disk" not in str(refused.value)


def test_a_cluster_that_wants_a_token_is_told_how_to_give_it(monkeypatch):
    """Protects from an authentication error that says nothing of RAY_AUTH_MODE."""
    monkeypatch.setattr(ray_cluster, "knock", lambda door: "")
    said = "Traceback\nray.exceptions.AuthenticationError: InvalidAuthToken: no token"
    monkeypatch.setattr(ray_cluster, "_joined_elsewhere", lambda named: (1, said))
    with pytest.raises(InputError, match=r"RAY_AUTH_MODE=token, and give the cluster's token"):
        ray_cluster._try("127.0.0.1:6379", "127.0.0.1:6379")


# --- vLLM ------------------------------------------------------------------------------------------------


def test_the_extra_asks_for_the_vllm_that_goes_with_this_transformers():
    """Protects from an install that resolves to a vLLM which wants an older transformers."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (wanted,) = (Requirement(line) for line in project["optional-dependencies"]["vllm"])
    assert [version in wanted.specifier for version in ("0.29.1", "0.30.0", "0.30.2", "0.31.0")] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("family", "limits"),
    [("qwen2_5_vl", {"image": 0, "video": 0}), ("qwen3_vl", {"image": 0, "video": 1})],
)
def test_vllm_keeps_the_tower_that_later_layers_need(pair_of, tmp_path, monkeypatch, family, limits):
    """Protects from a vision tower dropped by default limits, without which Qwen3-VL's deepstack columns don't fit."""
    for role in ("base", "rlvr"):
        getattr(pair_of(family), role).model.save_pretrained(tmp_path / role)
        tiny.processor(family).save_pretrained(tmp_path / role)
    pair = load_pair(base=tmp_path / "base", rlvr=tmp_path / "rlvr", device="cpu")
    _engine.cache_clear()
    started = standin.install(monkeypatch)
    prompt = pair.encode(tiny.problem(family))
    found = decode(pair, prompt, max_new_tokens=4, engine="vllm")
    _engine.cache_clear()
    assert started[0].settings["limit_mm_per_prompt"] == limits
    assert found[0].text == decode(pair, prompt, max_new_tokens=4)[0].text
