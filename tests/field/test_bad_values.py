"""Mistakes in Python: refused in words that name the argument, what was found, what was expected, and a call that works."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

import workbench as wb
from workbench.errors import InputError
from workbench.sampling import Sampling

ROWS: list[tuple[str, Callable[[Any, Any, Any], Any], list[str]]] = [
    ("condition", lambda p, e, f: wb.decode(p, e, intervention="low"), ["`intervention` is 'low'", "Patch("]),
    (
        "conditions",
        lambda p, e, f: wb.decode_many(p, [e, e], interventions=[wb.Patch(layers=2)]),
        ["`interventions` has 1 entries for 2 prompts"],
    ),
    ("stop", lambda p, e, f: wb.decode(p, e, stop=3), ["`stop` is 3", "texts", "stop=["]),
    ("empty stop", lambda p, e, f: wb.decode(p, e, stop=["x", ""]), ["`stop` is ['x', '']", "not empty"]),
    ("keep", lambda p, e, f: wb.ablate(p, [tiny.problem()], [], keep=f), ["`keep`", "is a file", "a folder"]),
    (
        "template",
        lambda p, e, f: wb.load_pair("shapes", chat_template=3),
        ["`chat_template` is '3'", "expected 'base', 'rlvr'"],
    ),
    ("cells", lambda p, e, f: wb.Replay(cells=[1, 2]), ["`cells` is a list", "a function", "cells=lambda"]),
    (
        "mask",
        lambda p, e, f: wb.decode(
            p, e, intervention=wb.Patch(layers=2, cells=lambda q: torch.ones(9, 9).bool())
        ),
        ["`cells`", "(9, 9)"],
    ),
    (
        "temperature",
        lambda p, e, f: Sampling(temperature="hot").check(),
        ["`temperature` is 'hot'", "0 (greedy)"],
    ),
    ("samples", lambda p, e, f: Sampling(samples=True).check(), ["`samples` is True", "at least 1"]),
    ("positions", lambda p, e, f: wb.Patch(positions="visul"), ["`positions` is 'visul'", "'visual'"]),
    (
        "no response",
        lambda p, e, f: wb.trace(p, [e], responses={e.problem_id: None}),
        ["`responses` holds a NoneType", "what `decode` returns", "trace(pair, "],
    ),
    (
        "explored",
        lambda p, e, f: wb.explore(p, [e], responses={"x": "3"}),
        ["`responses` has one to 'x'", "explore(pair, problems, responses="],
    ),
    (
        "controls",
        lambda p, e, f: wb.divergence(p, [e], controls=[p]),
        ["`controls` is a list", "pairs by name", "divergence(pair, problems, controls={"],
    ),
    (
        "samples of a divergence",
        lambda p, e, f: wb.divergence(p, [e], samples=0),
        ["`samples` is 0", "at least 1", "divergence(pair, "],
    ),
    (
        "responses of a divergence",
        lambda p, e, f: wb.divergence(p, [e], responses={e.problem_id: []}),
        ["`responses` has none to", "divergence(pair, problems, responses="],
    ),
    (
        "class",
        lambda p, e, f: wb.decode(p, e, intervention=wb.CrossSample),
        ["`intervention` is the class CrossSample", "a value of it", "CrossSample('base', 'divergence', "],
    ),
    (
        "under",
        lambda p, e, f: wb.Extrapolate(0.5, under=3),
        ["`under` has a int", "Extrapolate(0.5, under=Replay())"],
    ),
]


@pytest.mark.parametrize(("name", "call", "parts"), ROWS, ids=[row[0] for row in ROWS])
def test_it_is_refused_in_words_before_any_forward(tiny_pair, tmp_path, monkeypatch, name, call, parts):
    """Protects from a traceback out of the middle of the library, and from refusals after the work."""
    prompt, file = tiny_pair.encode(tiny.problem()), tmp_path / "file"
    file.write_text("")
    for anatomy in (tiny_pair.base, tiny_pair.rlvr):
        if name != "mask":  # how many cells there are, only a prompt says
            monkeypatch.setattr(anatomy.model, "forward", lambda *a, **k: pytest.fail("a model ran"))
    with pytest.raises(InputError) as refused:
        call(tiny_pair, prompt, file)
    for part in parts:
        assert part in str(refused.value)
