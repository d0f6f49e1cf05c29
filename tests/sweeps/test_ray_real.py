"""Sweeps on a Ray of its own command line: an actor and a raylet that are killed, a cluster that can't be reached, its token."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from ray_net import Head, Net
from real import Driver, cells, standins, until, workers
from sweep_runs import contents, spec

from workbench.sweeps.driver import run_sweep
from workbench.sweeps.ray_cluster import Cluster, _reason, knock

pytest.importorskip("ray")
SECONDS, CELL = 30, 2.0
"""Within which what is wrong must be said; and what a cell takes: on a busy machine a new worker, or the loss of all, comes
before one worker alone could be done with the rest. It is the cluster's to say: a worker has the raylet's environment, not the
driver's."""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.stop()


@pytest.fixture(scope="module")
def head(net) -> Iterator[Head]:
    head = Head(net, standins(dict(os.environ), CELL), 6390)
    yield head
    head.stop()


@pytest.fixture
def plain(home) -> dict[str, bytes]:
    """Tables of a run on this machine."""
    run_sweep(spec(home), home / "local", workers=1)
    return contents(home / "local")


def run(head: Head, home, **env: str) -> Driver:
    return Driver(
        home, head.env | env, "run", "s.yaml", "--out", "out", "--engine", "ray", within=head.net.within
    )


def test_a_named_cluster_is_joined_said_and_gives_the_same_tables(head, home, plain):
    driver = run(head, home, RAY_ADDRESS=head.address, **head.token)
    assert driver.end() == 0, driver.said
    assert f"Ray: the cluster at {head.address}, which RAY_ADDRESS names: 2 CPUs, 0 GPUs" in driver.said
    assert contents(home / "out") == plain


def test_an_actor_that_is_killed_is_replaced_and_the_cluster_that_runs_here_is_found(head, home, plain):
    driver = run(head, home, **head.token)
    assert until((home / "out" / "ledger.sqlite").exists)
    assert until(lambda: cells(home)["done"] > 1), driver.said
    os.kill(int(workers(home)[0].partition(":")[2]), signal.SIGKILL)
    assert driver.end() == 0, driver.said
    assert f"Ray: the cluster at {head.address}, which runs on this machine" in driver.said
    assert len(set(workers(home))) == 3
    assert contents(home / "out") == plain


def test_a_cluster_that_wants_a_token_says_how_to_give_it(head, home):
    spec(home)
    driver = run(head, home, RAY_ADDRESS=head.address)
    assert driver.end() == 2, driver.said
    assert f"the cluster at {head.address} can't be joined: " in driver.said
    assert "say RAY_AUTH_MODE=token, and give the cluster's token" in driver.said
    assert "free some space" not in driver.said


def test_a_cluster_that_cannot_be_reached_is_said_with_the_reason(head, home):
    spec(home)
    driver = run(head, home, RAY_ADDRESS="127.0.0.1:6391")
    assert driver.end(SECONDS) == 2, driver.said
    assert "can't be joined: its head (127.0.0.1:6391) does not answer: Connection refused" in driver.said
    assert "RAY_ADDRESS=local for one of this machine's own" in driver.said
    assert "free some space" not in driver.said
    assert cells(home) == {"pending": 20}


def test_what_listens_but_is_no_ray_is_said(head, home):
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 6392)); print('up', flush=True); time.sleep(600)"
    listener = subprocess.Popen([*head.net.within, sys.executable, "-c", listen], stdout=subprocess.PIPE)
    try:
        assert listener.stdout is not None
        listener.stdout.readline()
        spec(home)
        driver = run(head, home, RAY_ADDRESS="127.0.0.1:6392")
        assert driver.end(2 * SECONDS) == 2, driver.said  # with the start of two processes
    finally:
        listener.kill()
        listener.wait()
    assert "the cluster at 127.0.0.1:6392 can't be joined: no answer in 20 s" in driver.said


def test_a_raylet_that_died_is_said_and_the_sweep_goes_on_elsewhere(head, home, plain):
    driver = run(head, home, RAY_ADDRESS=head.address, **head.token)
    assert until((home / "out" / "ledger.sqlite").exists)
    assert until(lambda: cells(home)["done"] > 1), driver.said
    head.raylet().kill()
    died = time.monotonic()
    assert driver.end(SECONDS) == 2, driver.said
    assert time.monotonic() - died < SECONDS
    assert "the cluster is lost: the raylet of this machine" in driver.said
    assert 1 < cells(home)["done"] < 20
    alone = head.env | {"RAY_ADDRESS": "local", "STANDIN_SECONDS": "0.3"}
    again = Driver(home, alone, "resume", "out", "--engine", "ray", within=head.net.within)
    assert again.end() == 0, again.said
    assert "Ray: a Ray of this machine's own, which ends with the sweep" in again.said
    assert contents(home / "out") == plain


# --- without a cluster -----------------------------------------------------------------------------------


def test_a_cluster_counts_as_lost_only_after_some_misses_in_a_row(monkeypatch):
    monkeypatch.setattr("workbench.sweeps.ray_cluster.WATCH", -1)
    monkeypatch.setattr(Cluster, "_dead", lambda self: "")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        door = ("the raylet", "127.0.0.1", listening.getsockname()[1])
        cluster = Cluster("", [door], "", ours=False)
        cluster.watch()
    assert "Connection refused" in knock(door)
    cluster.watch()
    cluster.watch()
    with pytest.raises(ValueError, match=r"the cluster is lost: the raylet \(127.*refused"):
        cluster.watch()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", ""),
        ("[2026-11-29 02:18:20,111 W 1 1] network_util.cc:330: Failed to determine local IP via 8.8.8.8", ""),
        (
            "[2026-11-29 02:18:25,118 W 1 1] rpc_client.h:153: Failed to connect to GCS within 5 seconds.\n"
            "[2026-11-29 02:19:00,181 W 1 1] gcs_client.cc:210: Failed to get cluster ID",
            "Failed to connect to GCS within 5 seconds",
        ),
        (
            "2026-11-29 03:09:34,979\tINFO worker.py:20 -- Failed before\nTraceback (most recent call last):\n"
            "  raise ConnectionError(x)\nConnectionError: Could not find any running Ray instance.",
            "ConnectionError: Could not find any running Ray instance",
        ),
    ],
)
def test_the_line_that_tells_is_taken(said, reason):
    assert _reason(said) == reason
