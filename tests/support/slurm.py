"""A Slurm of one's own: controller, node and authentication on loopback, in one folder, as whoever runs the tests.

Nothing of the machine's own configuration is read or written, so that it needs no right of root and no free standard port.
With ``accounting``, MariaDB and slurmdbd too, so that ``sacct`` answers. Where Slurm is not installed such tests are skipped;
with WORKBENCH_REQUIRE_SLURM=1 they fail.
"""

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from real import free_ports, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
ACCOUNTS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "mariadb-admin")
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MpiDefault=none
KillWait=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Requeued jobs start after cred_expire seconds; eight CPUs, so that sleeping stand-ins need not wait for each other.
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStoragePass={home}/munge.socket
"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[2]}
SlurmUser={user}
PidFile={home}/slurmdbd.pid
LogFile={home}/slurmdbd.log
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=accounts
"""


def lacking(*programs: str) -> None:
    """Skip, or fail where Slurm is asked for, if a program is not installed."""
    if missing := [name for name in programs if shutil.which(name, path=PATH) is None]:
        said = f"no {', '.join(missing)} found: apt-get install slurm-wlm munge slurmdbd mariadb-server"
        if os.environ.get("WORKBENCH_REQUIRE_SLURM") == "1":
            pytest.fail(f"{said}; WORKBENCH_REQUIRE_SLURM=1")
        pytest.skip(said)


class Slurm:
    """Daemons in a folder; ``env`` is what Slurm's commands find them by."""

    def __init__(self, home: Path, *, accounting: bool) -> None:
        lacking(*PROGRAMS, *(ACCOUNTS if accounting else ()))
        self.home, self.daemons = home, list[subprocess.Popen[bytes]]()
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(home / "slurm.conf")}
        for made in ("state", "spool"):
            (home / made).mkdir()
        told = {"home": home, "host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
        told["ports"] = free_ports(3)
        (home / "slurm.conf").write_text((CONFIG + ACCOUNTING * accounting).format(**told))
        key = home / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        named = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "seed-file": "seed",
            "log-file": "log",
        }
        self._start(
            "munged", "--foreground", "--force", *(f"--{k}={home}/munge.{v}" for k, v in named.items())
        )
        until((home / "munge.socket").exists)
        if accounting:
            self._account(DATABASE.format(**told))
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-N", str(told["host"]))
        until(lambda: self.ask("sinfo", "-h", "-o", "%T").strip() == "idle")

    def _start(self, *command: str, **env: str) -> None:
        with (self.home / f"{command[0]}.out").open("wb") as log:
            program = shutil.which(command[0], path=PATH)
            assert program is not None
            popen = subprocess.Popen(
                [program, *command[1:]], env=self.env | env, stdout=log, stderr=log, start_new_session=True
            )
        self.daemons.append(popen)

    def _account(self, config: str) -> None:
        """A database behind a socket, and the daemon that keeps accounts in it."""
        user, data, door = (
            f"--user={getpass.getuser()}",
            f"--datadir={self.home}/mysql",
            f"{self.home}/my.sock",
        )
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", data, user, "--auth-root-authentication-method=normal", "--skip-test-db"],
            env=self.env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._start(
            "mariadbd", "--no-defaults", data, user, f"--socket={door}", f"--pid-file={self.home}/my.pid",
            "--skip-networking", "--skip-grant-tables", "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
        )  # fmt: skip
        ping = ["mariadb-admin", "--no-defaults", f"--socket={door}", "ping"]
        until(lambda: subprocess.run(ping, env=self.env, capture_output=True, check=False).returncode == 0)
        (self.home / "slurmdbd.conf").write_text(config)
        (self.home / "slurmdbd.conf").chmod(0o600)
        self._start("slurmdbd", "-D", MYSQL_UNIX_PORT=door)
        until(lambda: self.run("sacctmgr", "-n", "list", "cluster").returncode == 0)
        self.run("sacctmgr", "-i", "add", "cluster", "tests")

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """One of Slurm's commands."""
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=60, errors="replace"
        )

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands answers."""
        return self.run(*command).stdout

    def jobs(self, folder: Path | None = None, states: str = "all") -> list[str]:
        """Ids of jobs in some states, those of an array one by one; ``folder``: of those alone that were submitted there."""
        lines = self.ask("squeue", "-h", "-r", "-t", states, "-o", "%i %Z").splitlines()
        return sorted(line.split()[0] for line in lines if folder is None or line.split()[1] == str(folder))

    def running(self, folder: Path) -> list[str]:
        """Ids of jobs that run."""
        return self.jobs(folder, "running")

    def stop(self) -> None:
        """End the jobs and then the daemons, the last first."""
        self.run("scancel", f"--user={getpass.getuser()}")
        until(lambda: not self.jobs(states="running,completing"), 20)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
