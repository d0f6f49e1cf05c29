"""Visual agents: a model that looks closer, turn by turn, until it answers.

1. Each turn's prompt is the whole conversation: system text, problem, what the model said and what it was shown. An
   intervention is made anew on that prompt, with all its images: tokens are learnt, or cells recorded. Where replay
   selects none of its cells the model answers as it is.
2. The model responds, up to the first ``</tool_call>`` or ``</answer>``.
3. An answer ends it. A call brings a crop as a new image, anything else a sentence about what is wrong (`zoom`).
4. It also ends after ``turns`` responses, or when the next one would not fit the context.

The model's words go back into the prompt as text; a special token that they spell is broken up. Every turn draws from a
random stream of its own, made of the seed, the problem's id and the turn's number.

The scenario is that of DeepEyes in arXiv 2511.19972 (Table 3). Its released loop evaluates model output as Python, and
patches; here a call is strict JSON, and replay is possible at every turn.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from workbench.conditions import Condition, condition_of, signature_of
from workbench.decoding.decode import Engine, Intervention, Model, Response, decode
from workbench.errors import InputError
from workbench.experiments.transcript import Ended, Transcript, Turn
from workbench.models.chat import Message, as_said, pixel_budget
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem, listed
from workbench.problems.zoom import STOPS, Step, ZoomTool, utf8
from workbench.replay.nothing_selected import NOTHING
from workbench.replay.prepared import prepare
from workbench.runs import kept
from workbench.tracing.trace import trace
from workbench.views.pages import write_page

Respond = Callable[[ModelPair, EncodedPrompt, Intervention | None], Response]
"""How a turn is decoded: (pair, prompt, its intervention) -> one response."""

_CHARACTERS = 16  # a token stands for no more, on average: longer texts are not even tokenized


def run_agent(
    pair: ModelPair,
    problem: Problem,
    *,
    model: Model = "rlvr",
    intervention: Condition | None = None,
    turns: int = 10,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    max_context: int | None = None,
    tool: ZoomTool | None = None,
    lens: bool = False,
    engine: Engine | None = None,
    respond: Respond | None = None,
) -> Transcript:
    """Let a model work on a problem with images, looking closer turn by turn until it answers.

    1. Each turn's prompt is the whole conversation; an intervention is made anew on it, with all its images.
    2. The model responds, up to the first ``</tool_call>`` or ``</answer>``.
    3. An answer ends it; a call brings a crop as a new image, anything else a sentence about what is wrong.
    4. It also ends after ``turns`` responses, or when the next one would not fit the context.

    Args:
        pair: what `load_pair` returned, with a processor whose chat template knows several turns.
        problem: a problem with images. Its ``system`` must explain the tool; without one the pair's preset does, or else
            the tool explains itself.
        model: which of the two answers.
        intervention: made anew at every turn; None for the plain model.
        turns: responses at most.
        temperature: 0 is greedy.
        seed: of the samples.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        max_context: tokens of prompt and response together at most; default: what the models' config allows.
        tool: how calls are read; None: as the pair's preset says, else a `ZoomTool()`.
        lens: also trace both models on every turn's prompt, for overlays on the transcript's page.
        engine: what draws the responses, as in `decode`.
        respond: draws the responses instead of `decode`.

    Raises:
        InputError: a number outside its range, a problem without images, an intervention that does not fit the model,
            a tool that needs pictures resized as Qwen-VL does, a first prompt that exceeds the context, or a chat template that
            refuses several turns.
    """
    limit = pair.context if max_context is None else max_context
    tool = tool or tool_of(pair)
    _check_tool(pair, tool)
    _check(problem, model, intervention, turns, limit)
    length = pair.sampling(temperature=temperature, seed=seed, max_new_tokens=max_new_tokens).max_new_tokens
    how = {"temperature": temperature, "seed": seed, "max_new_tokens": length}
    answer = respond or _decoder(model, {**how, "engine": engine})
    task = _explained(pair, problem, tool)
    images, messages, history = [*problem.images], list[Message](), list[Turn]()
    ended: Ended = "turns"
    for number in range(1, turns + 1):
        if sum(len(p) for m in messages for p in m.parts if isinstance(p, str)) > _CHARACTERS * limit:
            ended = "context"
            break
        prompt = pair.encode(replace(task, id=f"{problem.id}/turn {number}"), messages)
        if len(prompt) + length > limit:
            _check_room(problem, prompt, length, limit, history)
            ended = "context"
            break
        turn, step = _turn(pair, prompt, intervention, answer, tool, images, number, lens=lens)
        history.append(turn)
        if step.answered:
            ended = "answer"
            break
        reply = tool.reply(step, turn.crop, len(images))
        images += [turn.crop] if turn.crop else []
        if len(step.text) > _CHARACTERS * limit:  # before its special tokens are looked for
            ended = "context"
            break
        messages.append(Message("assistant", (as_said(pair.processor, step.text),)))
        parts = (as_said(pair.processor, part) if isinstance(part, str) else part for part in reply)
        messages.append(Message("user", tuple(parts)))
    settings = {"pair": pair.name, "model": model, "turns": turns, **how, "max_context": limit}
    settings |= {} if engine is None else {"engine": str(engine)}
    settings |= {"tool": asdict(tool), "intervention": intervention and signature_of(intervention)}
    return Transcript(problem, tuple(history), ended, settings, tuple(messages))


def given(pair: ModelPair, transcript: Transcript, turn: int) -> tuple[Problem, tuple[Message, ...]]:
    """What a model was given at a turn: the problem as it was put, and the turns before, as `ModelPair.encode` takes them.

    Args:
        pair: the one that worked on it.
        transcript: what `run_agent` returned.
        turn: from 1; one more than the transcript has where its last brought a reply.

    Raises:
        InputError: the conversation has no such turn.
    """
    last = len(transcript.messages) // 2 + 1
    if not 1 <= turn <= last:
        raise InputError(
            f"`turn` is {turn}; the conversation about {transcript.problem.id!r} has turns 1 to {last}: "
            "given(pair, transcript, 1)"
        )
    tool = ZoomTool(**transcript.settings["tool"])
    return _explained(pair, transcript.problem, tool), transcript.messages[: 2 * (turn - 1)]


def _explained(pair: ModelPair, problem: Problem, tool: ZoomTool) -> Problem:
    """The problem, with the tool's instructions where neither it nor the pair's preset explains the tool."""
    theirs = (pair.preset and pair.preset.system) or ""
    explained = problem.system is not None or tool.name in theirs
    return problem if explained else replace(problem, system=tool.instructions)


def _check_room(
    problem: Problem, prompt: EncodedPrompt, length: int, limit: int, done: Sequence[Turn]
) -> None:
    """A later turn that does not fit ends the conversation; a first one is refused."""
    if not done:
        raise InputError(
            f"`problem` {problem.id!r} has {len(prompt)} tokens, with `max_new_tokens` {length} more than "
            f"the context of {limit}; lower max_new_tokens, or shrink the images"
        )


def _turn(
    pair: ModelPair,
    prompt: EncodedPrompt,
    intervention: Condition | None,
    answer: Respond,
    tool: ZoomTool,
    images: Sequence[Image.Image],
    number: int,
    *,
    lens: bool,
) -> tuple[Turn, Step]:
    """One response, with the intervention made for its prompt, and what the tool reads in it."""
    begun = time.perf_counter()
    edit = None if intervention is None else prepare(intervention, pair, [prompt])[0]
    making = time.perf_counter()
    response = answer(pair, prompt, edit)
    seconds = time.perf_counter() - making
    size = _seen(pair, prompt) if tool.relative_to == "seen" else None
    step = tool.read(utf8(response.text), [image.size for image in images], size)
    turn = Turn(
        number=number,
        positions=len(prompt),
        visual=int((prompt.kinds == TokenKind.VISUAL).sum()),
        images=len(images),
        text=utf8(response.text),
        tokens=response.tokens,
        call=step.call,
        error=step.error,
        crop=tool.crop(step.call, images) if step.call else None,
        made=getattr(edit, "summary", {}),
        making_seconds=making - begun if edit else 0.0,
        seconds=seconds,
        trace=trace(pair, [prompt], top_k=5, null_draws=0) if lens else None,
        replaced=len(response.replaced),
        overwritten=response.cells,
    )
    return turn, step


def run_agents(
    pair: ModelPair,
    problems: Sequence[Problem],
    pages: Path,
    keep: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> dict[str, pd.DataFrame]:
    """`run_agent` on every problem: a page each in the folder ``pages``, and two tables.

    Args:
        pair: what `load_pair` returned.
        problems: problems with images.
        pages: where ``0001.html`` and so on go.
        keep: a folder for what is finished; the same call with the same folder goes on from there.
        progress: called with ("agent", problems done, problems in all).
        settings: of `run_agent`.

    Returns:
        ``agents``: a row a problem: problem, family, turns, calls, errors, ended, answer, correct (None: not known),
        positions (of the last prompt), seconds, page; ``turns``: `Transcript.to_dataframe` of all.
    """
    problems = listed(problems, "run_agents(pair, load_problems('shapes-agent', limit=8), Path('pages'))")
    for problem in problems:
        _check_images(problem)
    settings["tool"] = settings.get("tool") or tool_of(pair)
    parts = []
    for number, problem in enumerate(problems, start=1):
        page = f"{number:04d}.html"

        def make(problem: Problem = problem, page: str = page) -> list[pd.DataFrame]:
            transcript = run_agent(pair, problem, **settings)
            page_html = pd.DataFrame({"html": [transcript.html()]})
            return [_row(transcript, page), transcript.to_dataframe(), page_html]

        spec = {"pair": pair.provenance, "problem": problem.fingerprint, "page": page, **settings}
        *tables, page_html = kept(keep, spec, ("agents", "turns", "pages"), make)
        write_page(pages / page, page_html["html"].item())
        parts.append(tables)
        if progress:
            progress("agent", number, len(problems))
    agents, turns = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    stopped = turns["made_stopped"].tolist() if "made_stopped" in turns else []
    if empty := stopped.count(NOTHING):
        warnings.warn(
            f"`intervention` selects no visual position at {empty} of {len(stopped)} turns: the model is left as it is there; "
            "raise tau, or use threshold='quantile'",
            stacklevel=2,
        )
    return {"agents": agents, "turns": turns}


def tool_of(pair: ModelPair) -> ZoomTool:
    """The zoom tool as the pair's preset describes it."""
    return ZoomTool(**(pair.preset.zoom if pair.preset else {}))


def _row(transcript: Transcript, page: str) -> pd.DataFrame:
    problem, turns = transcript.problem, transcript.turns
    row = {
        "problem": problem.id,
        "family": problem.family,
        "turns": len(turns),
        "calls": sum(turn.call is not None for turn in turns),
        "errors": sum(turn.error is not None for turn in turns),
        "ended": transcript.ended,
        "answer": transcript.answer or "",
        "correct": transcript.outcome().correct if problem.answer is not None else None,
        "positions": turns[-1].positions,
        "seconds": sum(turn.seconds + turn.making_seconds for turn in turns),
        "page": page,
    }
    return pd.DataFrame([row]).astype({"correct": "boolean"})


def _decoder(model: Model, how: Mapping[str, Any]) -> Respond:
    def respond(pair: ModelPair, prompt: EncodedPrompt, made: Intervention | None) -> Response:
        return decode(pair, prompt, model=model, intervention=made, stop=STOPS, **how)[0]

    return respond


def _check_tool(pair: ModelPair, tool: ZoomTool) -> None:
    if tool.relative_to == "seen" and pixel_budget(getattr(pair.processor, "image_processor", None)) is None:
        raise InputError(
            "`tool` has relative_to='seen', which is for families that resize a picture of any size (Qwen-VL); "
            f"{pair.rlvr.family} cuts pictures in another way: ZoomTool(relative_to=None), or relative_to=1000"
        )


def _seen(pair: ModelPair, prompt: EncodedPrompt) -> list[tuple[int, int]]:
    """(width, height) in pixels of every image as it was resized."""
    part: Any = getattr(pair.processor, "image_processor", None)
    side = part.patch_size * part.merge_size
    return [(columns * side, rows * side) for _, rows, columns in prompt.grids]


def _check_images(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise InputError(
            f"`problem` is a {type(problem).__name__}; expected a Problem: "
            "run_agent(pair, load_problems('shapes-agent', limit=1)[0])"
        )
    if not problem.images or problem.video:
        content = "a video" if problem.video else "no images"
        raise InputError(
            f"`problem` {problem.id!r} has {content}; the zoom tool needs images: Problem(..., images=(picture,))"
        )


def _check(problem: Problem, model: Model, intervention: Condition | None, turns: int, limit: int) -> None:
    call = "run_agent(pair, problem, turns=10)"
    for name, value in (("turns", turns), ("max_context", limit)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"`{name}` is {value!r}; expected a whole number of at least 1: {call}")
    _check_images(problem)
    if intervention is not None and not isinstance(intervention, Condition):
        raise InputError(
            f"`intervention` is a {type(intervention).__name__}; expected None, a Replay, a Patch or an Adapter, of which each "
            "turn's own is made: run_agent(pair, problem, intervention=Replay(layers=5))"
        )
    if getattr(intervention, "direction", None) == "self":
        raise InputError(
            "`intervention` has direction 'self', which needs a disturbed copy of every crop; agents have 'base_to_rlvr' "
            "and 'reverse': Replay(direction='base_to_rlvr')"
        )
    fits = "rlvr" if intervention is None else condition_of(intervention).answered_by
    if model not in ("base", "rlvr") or (intervention is not None and model != fits):
        raise InputError(
            f"`model` is {model!r}; expected {'base or rlvr' if intervention is None else repr(fits)} with this "
            f"intervention: run_agent(pair, problem, model={fits!r})"
        )
