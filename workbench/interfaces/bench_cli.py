"""`workbench bench`: the live bench as a page of its own, served by voila on this machine."""

import json
import os
import secrets
import socket
from enum import StrEnum
from typing import Annotated

import typer

from workbench.errors import InputError
from workbench.interfaces import checks, options, questions
from workbench.interfaces.terminal import quiet

_ONE = questions.Clips(limit=1)


class Theme(StrEnum):
    """Colours of the page."""

    LIGHT = "light"
    DARK = "dark"


def bench(
    models: options.ModelsHere,
    problems: questions.Clips = _ONE,
    number: Annotated[int, typer.Option(help="Which of the problems to open, from 0.", min=0)] = 0,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8866,
    ip: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine alone.")
    ] = "127.0.0.1",
    theme: Annotated[Theme, typer.Option(help="Colours.")] = Theme.LIGHT,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Serve the live bench as a page: select cells, act, and see both models answer. Ctrl-C ends it."""
    quiet()
    checks.needs("bench", "voila", "anywidget")
    port = _free(ip, port)
    models.check()
    problems = problems.of(models.preset)
    listed = problems.load(limit=number + 1)
    if number >= len(listed):
        raise InputError(
            f"`number` is {number}, and `problems` {problems.problems!r} has {len(listed)}: --number {len(listed) - 1}"
        )

    from workbench.live.served import ASKED, NOTEBOOK

    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)
    os.environ[ASKED] = json.dumps(
        {
            "models": {
                "name": models.name,
                "base": models.base,
                "rlvr": models.rlvr,
                "device": models.device,
                "dtype": models.dtype.value if models.dtype else None,
                **models.reading,
            },
            "problems": {
                "source": problems.problems,
                "split": problems.split,
                "seed": problems.seed,
                "columns": problems.mapping,
                "frames": problems.frames,
            },
            "number": number,
        }
    )
    from voila.app import Voila

    typer.echo(f"Bench    http://{ip}:{port}/?token={token}\nCtrl-C ends it.")
    arguments = [
        str(NOTEBOOK),
        f"--Voila.ip={ip}",
        f"--port={port}",
        f"--token={token}",
        f"--theme={theme.value}",
    ]
    Voila.launch_instance([*arguments, *([] if browser else ["--no-browser"])])


def _free(ip: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        InputError: it is taken, or the address is not one of this machine.
    """
    try:
        with socket.create_server((ip, port)) as taken:
            return taken.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise InputError(
            f"`port` {port} of `ip` {ip!r} can't be listened on ({error}); take another: --port 0"
        ) from error
