"""`bench`: the door of the room."""

from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.live.kept import problem_in, read_json, turns_in
from workbench.live.session import Bench
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem


def bench(
    pair: ModelPair,
    problem: Problem | EncodedPrompt | str | None = None,
    *,
    reopen: str | Path | None = None,
    **settings: Any,
) -> Bench:
    """A live bench: both models at one prompt; select cells, act on them, and see at once how the answer changes.

    Args:
        pair: what `load_pair` returned, with a tokenizer.
        problem: a problem, an encoded prompt, or a question in words (with ``picture=``).
        reopen: instead of a problem: a JSON file that `Bench.save` wrote; what was tried comes with it.
        settings: arguments of `Bench`.

    Returns:
        The bench. In a notebook with anywidget (extra ``notebooks``) it shows itself as a widget, elsewhere as a page; everything
        that the widget does is also one of its methods.

    Raises:
        InputError: what `Bench` refuses; neither or both of ``problem`` and ``reopen``; a file of another pair.

    Example:
        >>> pair, problem = wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0]
        >>> bench = wb.bench(pair, problem)
        >>> bench.select(kind="visual", layers=range(0, 5)).count
        80
        >>> bench.scale(0).text == bench.answers["rlvr"][0].text
        False
    """
    if (problem is None) == (reopen is None):
        raise InputError(
            f"`problem` and `reopen`: {'neither' if problem is None else 'both'} given; expected one of them: "
            "wb.bench(pair, wb.load_problems('shapes', limit=1)[0])"
        )
    if reopen is None:
        return Bench(pair, problem, **settings)  # pyright: ignore[reportArgumentType]
    entry = read_json(reopen)
    opened = Bench(pair, problem_in(entry), turns=turns_in(entry), **settings)
    opened.restore(entry)
    return opened
