"""What a file of problems will be to a model: the first ones in words, and as a page with their pictures."""

from collections.abc import Sequence

from PIL import Image

from workbench.problems.loading import Problems
from workbench.problems.problem import Problem, question_text
from workbench.views import markup
from workbench.views.pictures import data_uri

_STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
_STYLE += "pre{white-space:pre-wrap;margin:.3rem 0}"
_STYLE += "article{border-top:1px solid #ccc;padding:1rem 0}img{margin:2px;max-width:224px}small{color:#666}"
THUMBNAIL = 224
"""Pixels of the longer side."""


def shown(problem: Problem) -> str:
    """A problem in words: id, pictures by size, system prompt, the text as the model gets it, answer and verifier."""
    pictures = [f"{noun} {p.width}x{p.height}" for noun, p in _pictures(problem)]
    lines = [f"[{problem.id}]" + (f" {', '.join(pictures)}" if pictures else " no picture")]
    lines += [f"system: {problem.system}"] if problem.system else []
    lines.append(question_text(problem))
    lines.append(_judged(problem))
    return "\n".join(lines)


def page_of(problems: Problems, count: int) -> str:
    """A page of the first problems with thumbnails, and the closing line of loading; every text escaped."""
    articles = [_article(problem) for problem in problems[:count]]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems</title><style>{_STYLE}</style>'
        f"<h1>Problems</h1><p>{markup.escape(problems.told)}</p>{''.join(articles)}</html>"
    )


def _article(problem: Problem) -> str:
    thumbnails = "".join(
        f'<img src="{data_uri(picture, side=THUMBNAIL)}" alt="{noun}">'
        for noun, picture in _pictures(problem)
    )
    system = f"<p><i>{markup.escape(problem.system)}</i></p>" if problem.system else ""
    return (
        f"<article><small>{markup.escape(problem.id)}</small><div>{thumbnails}</div>{system}"
        f"<pre>{markup.escape(question_text(problem))}</pre><b>{markup.escape(_judged(problem))}</b></article>"
    )


def _pictures(problem: Problem) -> Sequence[tuple[str, Image.Image]]:
    return [
        *(("image", picture) for picture in problem.images),
        *(("frame", picture) for picture in problem.video),
    ]


def _judged(problem: Problem) -> str:
    verifier = problem.verifier.value  # type: ignore[union-attr]
    return "no answer" if problem.answer is None else f"answer: {problem.answer} (by {verifier})"
