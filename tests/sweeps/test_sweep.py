"""Sweeps that are killed, interrupted, starved of disk and misled by the clock: the tables come out the same, byte for byte."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from sweep_runs import STANDIN, contents, recorded, spec

from workbench.errors import InputError
from workbench.sweeps import cells as plan
from workbench.sweeps import engines, ledger
from workbench.sweeps.cells import plan_cells
from workbench.sweeps.driver import resume_sweep, run_sweep
from workbench.sweeps.engines import DEATHS, Schedule
from workbench.sweeps.export import differences, export_sweep, faults
from workbench.sweeps.ledger import Ledger, Outcome, driving
from workbench.sweeps.spec import PairSource, parse_sweep

DRIVER = (
    "import sys; from workbench.sweeps import engines; engines.WORKER = (sys.executable, sys.argv.pop(1)); "
    "from workbench.interfaces.cli import main; main()"
)


def command(home: Path, *arguments: str, seconds: float = 0.05) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, STANDIN, "sweep", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home,
        env={**os.environ, "STANDIN_SECONDS": str(seconds)},
    )  # fmt: skip


def workers_of(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def until(condition, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(found)


# --- what it gives ---------------------------------------------------------------------------------------


def test_every_cell_is_run_once_and_the_tables_have_them_in_order(home):
    last = run_sweep(spec(home, seeds="[0, 1]"), home / "out", workers=2)
    assert (last.cells, last.done, last.failed) == (5 * 4 * 2, 40, 0)
    contents(home / "out")
    cells = pd.read_parquet(home / "out" / "tables" / "cells.parquet")
    assert cells["problem"].tolist() == [f"mine/q{i}" for i in range(5) for _ in range(8)]
    assert cells["intervention"].tolist()[:4] == ["base", "base", "rlvr", "rlvr"]
    assert cells["key"].is_unique
    responses = pd.read_csv(home / "out" / "tables" / "responses.csv")
    assert len(responses) == 40 * 3
    assert responses["text"].str.startswith("answer, ").all()
    settings = pd.read_parquet(home / "out" / "tables" / "interventions.parquet")
    assert settings.set_index("intervention").loc["t tau=0.2", "tau"] == 0.2
    assert faults(home / "out") == []


def test_nothing_depends_on_workers_or_order(home, monkeypatch):
    file = spec(home)
    run_sweep(file, home / "one", workers=1)
    order = random.Random(0)
    straight = Ledger.pending
    monkeypatch.setattr(
        Ledger, "pending", lambda *a, **k: order.sample(found := straight(*a, **k), len(found))
    )
    run_sweep(file, home / "two", workers=3)
    assert contents(home / "one") == contents(home / "two")
    assert differences(home / "one", home / "two") == {"spec": [], "identity": [], "cells": [], "results": []}


def test_a_cell_that_fails_is_recorded_and_costs_no_other(home, monkeypatch):
    file = spec(home, "{bad: {patch: {layers: 2}}, t: {replay: {}}}")
    last = run_sweep(file, home / "out", workers=2)
    assert (last.done, last.failed) == (15, 5)
    with Ledger(home / "out") as book:
        assert book.failures() == [("`tau` selects nothing", 5)]
    assert resume_sweep(home / "out").now == 0
    assert resume_sweep(home / "out", retry_failed=True).now == 5
    assert Counter(recorded(home / "out").values()) == {"done": 15, "failed": 5}


def test_a_cell_that_kills_its_workers_fails_in_the_end(home):
    file = spec(home, "{fatal: {patch: {layers: 2}}}", plain="[base]")
    (home / "mine.jsonl").write_text(json.dumps({"id": "q", "question": "How many?", "answer": "3"}))
    last = run_sweep(file, home / "out", workers=2)
    assert (last.done, last.failed) == (1, 1)
    with Ledger(home / "out") as book:
        assert book.failures() == [(f"its worker died, {DEATHS} times in a row", 1)]


def test_workers_that_cannot_start_are_told_with_their_log(home, monkeypatch):
    monkeypatch.setattr(engines, "STARTS", 2)
    monkeypatch.setattr(engines, "WORKER", (sys.executable, "-c", "raise SystemExit('no such library')"))
    with pytest.raises(InputError, match=r"no worker can start.*\n.*no such library"):
        run_sweep(spec(home), home / "out", workers=1)
    assert set(recorded(home / "out").values()) == {"pending"}


def test_sweeps_share_cells(home):
    run_sweep(spec(home), home / "first", workers=1)
    wider = spec(home, "{u: {replay: {tau: [0.2, 0.4, 0.6]}}}")
    last = run_sweep(wider, home / "second", workers=1, share=[home / "first"])
    assert (last.cells, last.done, last.now) == (25, 25, 5)
    again = run_sweep(spec(home), home / "second", workers=1)  # the same folder, another plan
    assert (again.cells, again.done, again.now) == (20, 20, 0)
    assert contents(home / "second") == contents(home / "first")


# --- what a cell is ----------------------------------------------------------------------------------------


def test_a_key_changes_with_content_and_with_nothing_else(home):
    def keys() -> list[str]:
        return [cell.key for cell in plan_cells(parse_sweep(file.read_text()), "cpu")]

    file = spec(home)
    first = keys()
    shutil.copytree(home / "base", home / "moved")
    file.write_text(file.read_text().replace("/base,", "/moved,").replace("{t:", "{renamed:"))
    assert keys() == first
    for name, changed in (
        ("base/model.safetensors", b"other weights"),
        ("base/config.json", b'{"num_hidden_layers": 8, "rope": 1}'),
        ("mine.jsonl", (home / "mine.jsonl").read_bytes().replace(b"many?", b"few?")),
    ):
        file = spec(home)
        before = (home / name).read_bytes()
        (home / name).write_bytes(changed)
        assert not set(keys()) & set(first), name
        (home / name).write_bytes(before)
    for key, value in (
        ("samples", "3"),
        ("temperature", "0.5"),
        ("max_new_tokens", "9"),
        ("seeds", "[1]"),
        ("threads", "2"),
    ):
        file = spec(home, **{key: value})
        assert not set(keys()) & set(first), key


def test_every_checkpoint_of_a_bundled_pair_has_cells_of_its_own():
    sources = [PairSource(name="shapes", checkpoint=saved) for saved in (None, 50, 100, "sft", "random")]
    told = [json.dumps(plan.pair_identity(source), sort_keys=True) for source in sources]
    assert len(set(told)) == len(told)


def test_files_that_change_after_the_plan_are_found(home):
    run_sweep(spec(home), home / "out", workers=1)
    (home / "base" / "model.safetensors").write_bytes(b"trained on")
    found = "\n".join(faults(home / "out"))
    assert "since the plan" in found
    assert "model.safetensors" in found


def test_what_differs_is_told(home):
    run_sweep(spec(home), home / "a", workers=1)
    run_sweep(spec(home, "{t: {replay: {tau: 0.2, alpha: [5, 10]}}}", samples="3"), home / "b", workers=1)
    found = differences(home / "a", home / "b")
    assert "samples: 16 and 3" in found["spec"]
    assert found["cells"]
    assert len(found["results"]) == 10  # base and rlvr of five problems


# --- what may happen to it ---------------------------------------------------------------------------------


def test_twenty_kills(home):
    grid = "{t: {replay: {tau: [0.2, 0.3, 0.4, 0.5], alpha: [10, 20]}}}"
    run_sweep(spec(home, grid), home / "undisturbed", workers=2)
    draw, kills = random.Random(0), 0
    with Ledger(home / "undisturbed") as book:
        cells = len(list(book.cells()))
    arguments = ("run", "s.yaml", "--out", "out", "--workers", "2")
    driver = command(home, *arguments, seconds=0.1)
    while kills < 20:
        if (
            driver.poll() is not None
        ):  # it finished, or was killed; what is done is undone for the sake of more kills
            with Ledger(home / "out", write=True) as book, book.base:
                book.base.execute(
                    "DELETE FROM outcomes WHERE key IN (SELECT key FROM outcomes ORDER BY key LIMIT 20)"
                )
                book.base.execute("DELETE FROM results WHERE key NOT IN (SELECT key FROM outcomes)")
            driver = command(home, *arguments, seconds=0.1)
        victims = workers_of(driver.pid)
        if not victims:
            time.sleep(0.05)
            continue
        time.sleep(draw.uniform(0.1, 0.6))
        victim = draw.choice([driver.pid, *victims])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills += 1
        if victim == driver.pid:
            driver.communicate()
    driver.communicate(timeout=240)
    final = command(home, *arguments, seconds=0)
    out, err = final.communicate(timeout=240)
    assert final.returncode == 0, out + err
    assert Counter(recorded(home / "out").values()) == {"done": cells}
    assert contents(home / "out") == contents(home / "undisturbed")
    assert faults(home / "out") == []


def test_workers_end_with_their_driver(home):
    driver = command(home, "run", str(spec(home)), "--out", "out", "--workers", "2", seconds=60)
    assert until(lambda: len(workers_of(driver.pid)) == 2)
    left = workers_of(driver.pid)
    assert until(lambda: "q0" in "".join(f.read_text() for f in (home / "out" / "logs").iterdir()))
    driver.kill()
    driver.communicate()
    assert until(lambda: not any(map(psutil.pid_exists, left)))


def test_ctrl_c_once_finishes_what_is_under_way_and_twice_stops(home):
    file = spec(home)
    arguments = ("run", str(file), "--out", "out", "--workers", "1")
    logs = home / "out" / "logs" / "worker-0.log"
    driver = command(home, *arguments, seconds=2)
    assert until(lambda: logs.is_file() and "q0" in logs.read_text())
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, out + err
    assert "goes on from there" in err
    assert "Traceback" not in err
    done = Counter(recorded(home / "out").values())["done"]
    assert 1 <= done < 10
    assert logs.read_text().count(" done ") == done  # nothing begun was lost
    driver = command(home, *arguments, seconds=600)
    assert until(lambda: logs.read_text().count("seed 0") == done + 1)

    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None
    while "Ctrl-C again stops now" not in driver.stderr.readline():
        assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    driver.communicate()
    assert driver.returncode == 130
    assert Counter(recorded(home / "out").values())["done"] == done
    assert resume_sweep(home / "out").done == 20


def test_a_second_driver_is_refused(home):
    file = spec(home)
    with driving(home / "out"), pytest.raises(InputError, match="has a driver already"):
        run_sweep(file, home / "out")
    assert run_sweep(file, home / "out", workers=1).done == 20


def test_a_full_disk_loses_nothing(home, monkeypatch):
    file = spec(home)
    run_sweep(file, home / "undisturbed", workers=1)
    record = Ledger.record

    def small(self, outcomes):
        (pages,) = self.base.execute("PRAGMA page_count").fetchone()
        self.base.execute(f"PRAGMA max_page_count = {pages}")  # as if the disk ended there
        record(self, outcomes)

    monkeypatch.setattr(Ledger, "record", small)
    monkeypatch.setattr("workbench.sweeps.driver.TOGETHER", 0)
    with pytest.raises(InputError, match=r"full.*free some space"):
        run_sweep(file, home / "out", workers=1)
    monkeypatch.undo()
    monkeypatch.setattr(engines, "WORKER", (sys.executable, STANDIN))
    assert resume_sweep(home / "out", workers=1).done == 20
    assert contents(home / "out") == contents(home / "undisturbed")


def test_a_full_tmpfs_loses_nothing(home):
    disk = home / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        file = spec(
            home,
            "{t: {replay: {tau: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], alpha: [1, 2, 3, 4, 5, 6, 7, 8]}}}",
        )
        run_sweep(file, home / "undisturbed", workers=1)
        with pytest.raises(InputError, match=r"full|disk I/O|can't be written"):
            run_sweep(file, disk / "out", workers=1)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        last = run_sweep(file, disk / "out", workers=1)
        assert last.done == last.cells
        assert contents(disk / "out") == contents(home / "undisturbed")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_truncated_table_is_found_and_made_again(home):
    run_sweep(spec(home), home / "out", workers=1)
    before = contents(home / "out")
    table = home / "out" / "tables" / "responses.parquet"
    table.write_bytes(table.read_bytes()[:-40])
    assert faults(home / "out") == [
        f"tables/responses.parquet is not what was written; export again: workbench sweep export {home / 'out'}"
    ]
    assert contents(home / "out") == before
    assert faults(home / "out") == []


def test_an_export_that_is_cut_off_has_no_manifest(home, monkeypatch):
    run_sweep(spec(home), home / "out", workers=1)
    contents(home / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.sweeps.export.pq.ParquetWriter.write_table", full)
    with pytest.raises(InputError, match="can't be written"):
        export_sweep(home / "out")
    assert not (home / "out" / "tables" / "manifest.json").exists()


def test_a_clock_that_is_set_back_changes_nothing(home, monkeypatch):
    file = spec(home)
    run_sweep(file, home / "undisturbed", workers=1)
    clock = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(ledger.time, "time", lambda: float(next(clock)))
    run_sweep(file, home / "out", workers=2)
    assert contents(home / "out") == contents(home / "undisturbed")


def test_a_damaged_result_is_found(home):
    run_sweep(spec(home), home / "out", workers=1)
    with Ledger(home / "out", write=True) as book, book.base:
        book.base.execute("UPDATE results SET content = x'00' WHERE key = (SELECT min(key) FROM results)")
    assert "is not what was recorded" in faults(home / "out")[0]


def test_a_damaged_result_is_computed_again(home):
    run_sweep(spec(home), home / "whole", workers=1)
    run_sweep(spec(home), home / "out", workers=1)
    with Ledger(home / "out", write=True) as book, book.base:
        book.base.execute("UPDATE results SET content = x'00' WHERE key = (SELECT min(key) FROM results)")
    with pytest.raises(InputError, match="is damaged; have it computed again: workbench sweep resume"):
        export_sweep(home / "out")
    assert resume_sweep(home / "out", workers=1).now == 1
    assert contents(home / "out") == contents(home / "whole")


def test_a_sweep_goes_on_only_with_what_it_was_planned_with(home, monkeypatch):
    file = spec(home)
    run_sweep(file, home / "whole", workers=1)
    with Ledger(home / "out", write=True) as book, Ledger(home / "whole") as whole:
        book.plan([*whole.cells()], whole.about)  # planned, and nothing done
    weights = home / "rlvr" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before + b"x")
    with pytest.raises(
        InputError, match=r"can't go on as it was planned in .*rlvr.*model\.safetensors.*sweep run"
    ):
        resume_sweep(home / "out", workers=1)
    weights.write_bytes(before)
    (home / "mine.jsonl").rename(home / "yours.jsonl")
    with pytest.raises(InputError, match=r"can't go on as .* planned in .*mine\.jsonl"):
        resume_sweep(home / "out", workers=1)
    assert contents(home / "whole")  # what was found can be had all the same
    (home / "yours.jsonl").rename(home / "mine.jsonl")
    resume_sweep(home / "out", workers=1)
    assert contents(home / "out") == contents(home / "whole")


def test_a_sweep_of_a_pair_with_pixel_budgets_goes_on(home):
    preset = f"mine: {{base: {home}/base, rlvr: {home}/rlvr, image_pixels: [3136, 501760]}}"
    (home / "pairs.yaml").write_text(preset)
    file = spec(home)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([f"pairs: ['{home}/pairs.yaml:mine']", *lines[1:]]))
    run_sweep(file, home / "out", workers=1)
    assert faults(home / "out") == []
    assert resume_sweep(home / "out", workers=1).now == 0


def test_what_changes_under_a_sweep_stops_it_and_is_no_outcome(home):
    file = spec(home, "{stale: {patch: {layers: 2}}}", plain="[base]")
    with pytest.raises(InputError, match=r"are not those of the plan; plan again.* --out "):
        run_sweep(file, home / "out", workers=1)
    with Ledger(home / "out") as book:
        assert book.failures() == []
        assert len(book.pending()) >= 5


def test_a_folder_whose_planning_failed_holds_no_sweep(home):
    file = spec(home)
    (home / "mine.jsonl").write_text("{}")
    with pytest.raises(InputError, match="mine"):
        run_sweep(file, home / "out")
    for command in (faults, export_sweep, resume_sweep):
        with pytest.raises(InputError, match="holds no sweep"):
            command(home / "out")
    Ledger(home / "out", write=True).close()  # killed before its plan was written
    with pytest.raises(InputError, match="holds no sweep"):
        faults(home / "out")


def test_status_counts_the_cells_of_the_plan(home):
    run_sweep(spec(home), home / "out", workers=1)
    run_sweep(spec(home, "{t: {replay: {tau: 0.2}}}"), home / "out", workers=1)
    with Ledger(home / "out") as book:
        assert sum(cells for _, cells, _ in book.latest()) == 15


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(InputError, match="the file is damaged"):
        Ledger(tmp_path)
    with pytest.raises(InputError, match="holds no sweep"):
        Ledger(tmp_path / "none")


# --- how work is divided -----------------------------------------------------------------------------------


def test_a_worker_stays_with_its_problem_and_others_start_elsewhere(home):
    cells = plan_cells(parse_sweep(spec(home).read_text()), "cpu")
    schedule = Schedule(cells)
    first, second = schedule.take(), schedule.take()
    assert first is not None
    assert second is not None
    assert first.problem != second.problem
    following = schedule.take(first)
    assert following is not None
    assert following.problem == first.problem
    taken = {first.key, second.key, following.key}
    while cell := schedule.take(second):
        second = cell
        taken.add(cell.key)
    assert taken == {cell.key for cell in cells}


def test_a_recorded_result_stays(tmp_path):
    with Ledger(tmp_path, write=True) as book:
        book.record([Outcome("k", reason="first")])
        book.record([Outcome("k", {"responses": [], "drift": []})])
        book.record([Outcome("k", reason="late"), Outcome("k", {"responses": [1], "drift": []})])
        assert book.base.execute("SELECT status FROM outcomes").fetchall() == [("done",)]
        assert book.damaged() == []


# --- commands ----------------------------------------------------------------------------------------------


def test_watching_ends_with_ctrl_c_and_leaves_the_sweep_alone(home):
    run_sweep(spec(home), home / "out", workers=1)
    watching = subprocess.Popen(
        [sys.executable, "-c", DRIVER, STANDIN, "sweep", "status", "out", "--watch"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        time.sleep(4)
        assert watching.poll() is None
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=60)
    finally:
        watching.kill()
    assert "Stopped watching; the sweep goes on." in out + err
    assert "Traceback" not in err


def test_commands(home, monkeypatch, capsys):
    from workbench.interfaces import cli

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["workbench", "sweep", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    monkeypatch.chdir(home)
    shape = {
        "num_hidden_layers": 8,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 99,
    }
    for role in ("base", "rlvr"):
        (home / role / "config.json").write_text(json.dumps(shape))
    spec(home, "{bad: {patch: {layers: 2}}}")
    code, out, _ = run("plan", "s.yaml")
    assert code == 0
    assert "15 cells" in out
    assert "GB a worker" in out.replace("\n", " ")
    code, out, err = run("run", "s.yaml", "--workers", "1")
    assert code == 1
    assert "10 of 15 cells done, 5 failed" in out
    assert "--retry-failed" in err
    code, out, _ = run("status", "runs/s")
    assert code == 0
    assert "5 failed: `tau` selects nothing" in out
    assert run("verify", "runs/s")[:2] == (0, "all is as it was recorded\n")
    assert run("diff", "runs/s", "runs/s")[0] == 0
    assert run("export", "runs/s", "--out", "elsewhere")[0] == 0
    assert (home / "elsewhere" / "manifest.json").is_file()
    assert json.loads(run("schema")[1])["title"] == "Sweep of the replay workbench"
    (home / "s.yaml").write_text("pairs: [shapes]\nproblms: [shapes]")
    code, _, err = run("run", "s.yaml")
    assert code == 2
    assert "s.yaml:2:1: unknown key 'problms'" in err
    assert run("status", "nowhere")[0] == 2
    assert "`--share` nowhere holds no sweep" in run("run", str(spec(home)), "--share", "nowhere")[2]
    assert "`--throughput` is 0; expected TFLOP/s above 0" in run("plan", "s.yaml", "--throughput", "0")[2]
    assert run("run", "s.yaml", "--engine", "dask")[0] == 2
    assert run("run", "none.yaml")[0] == 2
