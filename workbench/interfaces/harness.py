"""Models for evaluation harnesses: texts and pictures in, a text out, by any condition that `ablate` compares.

1. A question becomes a `Problem`, which shows its pictures before its text: the images in their order, then the video
   (16 frames), then the texts in theirs, each on a line of its own. Where a picture stood between texts is lost.
2. It is encoded as the pair is asked (the preset's system prompt, unless the question brings one, and its wording), the
   intervention is made on it, and the response decoded.
   Of a conversation the first message is the problem, and turns after it keep the order of texts and pictures.
3. A question that fails (a broken picture, too little memory) costs no other its answer: a batch is tried again one by one.

`vlmevalkit_model` and `lmms_eval_models` give this the shapes that the harnesses expect.
"""

import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from workbench.conditions import Condition, Named, condition_of
from workbench.decoding.decode import Engine, Intervention, draw
from workbench.decoding.likelihoods import response_ids, response_scores
from workbench.errors import InputError, nearest
from workbench.interventions import Patch, Replay
from workbench.mixtures import Mixture
from workbench.models.chat import Message
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.from_rows import read_images, read_video
from workbench.problems.images import SUFFIXES
from workbench.problems.problem import Problem
from workbench.replay.nothing_selected import check_selected, unselected
from workbench.replay.prepared import check_fits, prepare_seeing

Kind = Literal["text", "image", "video"]
Part = tuple[Kind, Any]
"""What a question is made of: a text, an image or a video; pictures in memory, as a path, or as base64."""

_CALL = "`pair='shapes', intervention='replay', tau=0.4`"


@dataclass(frozen=True, eq=False)
class Question:
    """A problem, and the turns after it."""

    problem: Problem
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True, eq=False)
class Responder:
    """A pair under one condition."""

    pair: ModelPair
    condition: Named
    batch_size: int
    seed: int = 0
    engine: Engine | None = None

    @classmethod
    def of(
        cls,
        pair: ModelPair | str | None = None,
        intervention: Named | str | None = None,
        *,
        batch_size: int | str | None = None,
        seed: int = 0,
        engine: str | None = None,
        base: str | None = None,
        rlvr: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        processor: str | None = None,
        chat_template: str | None = None,
        **settings: Any,
    ) -> "Responder":
        """From values, or from the words of a command line.

        Args:
            pair: what `load_pair` returned, or a name; None, without ``base`` and ``rlvr``: ``"shapes"``.
            intervention: ``"rlvr"`` (or None: the plain RLVR model), ``"base"``, ``"replay"``, ``"patch"``, or a value.
            batch_size: questions at a time; None or ``"auto"``: what suits the pair.
            seed: of sampled responses.
            engine: as `decode_many`: None, or ``"vllm"``, which takes larger batches.
            base: as `load_pair`; so are rlvr, dtype, device, device_map, attn_implementation, processor and
                chat_template.
            settings: of `Replay` or `Patch`, for a named intervention; without them those of the pair's preset, else the
                paper's, hold. ``"none"`` is None, and ``"[4, 5]"`` a tuple.

        Raises:
            InputError: what `load_pair` refuses, an unknown intervention or setting, or one that does not fit the pair.
        """
        loading: dict[str, Any] = {"base": base, "rlvr": rlvr, "dtype": dtype, "device": device}
        loading |= {"device_map": device_map, "attn_implementation": attn_implementation}
        loading |= {"processor": processor, "chat_template": chat_template}
        arguments = {name: value for name, value in loading.items() if value is not None}
        _check_settings(intervention, settings)
        if engine not in (None, "vllm"):
            raise InputError(f"`engine` is {engine!r}; expected None or 'vllm': {_CALL}, engine='vllm'")
        if isinstance(pair, ModelPair):
            if arguments:
                raise InputError(
                    f"`{next(iter(arguments))}` was given beside a loaded `pair`; leave it out, or name the pair: {_CALL}"
                )
        else:
            pair = load_pair(pair if pair or base or rlvr else "shapes", **arguments)
        size = batch_of(pair) if batch_size in (None, "auto") else batch_size
        if not str(size).isdecimal() or int(str(size)) < 1:
            raise InputError(
                f"`batch_size` is {batch_size!r}; expected a whole number of at least 1, or 'auto'"
            )
        condition = _condition(pair, intervention, settings)
        check_fits(condition, pair)
        return cls(pair, condition, int(size), seed, "vllm" if engine else None)

    def answer(
        self,
        questions: Sequence[Callable[[], Question]],
        *,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[str | Exception]:
        """What is said to each question, without the stop string that ended it; what went wrong in place of an answer.

        Args:
            questions: each makes its question when its turn comes, so that pictures are in memory no longer than needed.
            temperature: 0 is greedy.
            max_new_tokens: where a response is cut off; None: what suits the pair.
            stop: strings that end a response.

        Raises:
            InputError: a number outside its range, or several questions of none of which replay selects anything.
        """
        stops, empty = tuple(stop), dict[str, None]()
        sampling = self.pair.sampling(
            temperature=temperature, seed=self.seed, max_new_tokens=max_new_tokens, engine=self.engine
        )

        def work(prompts: list[EncodedPrompt], made: list[Intervention | None]) -> list[str]:
            empty.update(dict.fromkeys(unselected(made)))
            responses = draw(
                self.pair,
                prompts,
                replace(sampling, batch_size=len(prompts)),
                model=condition_of(self.condition).answered_by,
                interventions=made,
                stop=stops,
            )
            return [before_stop(response.text, stops) for (response,) in responses]

        answers: list[str | Exception] = []
        for start in range(0, len(questions), self.batch_size):
            answers += self._isolated(questions[start : start + self.batch_size], work)
        if isinstance(self.condition, Replay) and len(questions) > 1:
            check_selected([*empty], len(questions), self.condition)
        return answers

    def likelihoods(
        self, question: Callable[[], Question], continuations: Sequence[str]
    ) -> list[tuple[float, bool] | Exception]:
        """Log probability in nats of each continuation of a question's prompt, and whether greedy decoding would say it.

        The intervention is made once for all of them.

        Raises:
            InputError: two models that decode together, or a patch while decoding, have no likelihood of a given text.
        """
        if isinstance(self.condition, Mixture) or getattr(self.condition, "while_decoding", False):
            raise InputError(
                f"`intervention` {self.condition.title!r} decodes from two models, and scores no given text; expected tasks that "
                f"generate, or one model: {_CALL}"
            )

        def work(prompts: list[EncodedPrompt], made: list[Intervention | None]) -> list[Any]:
            anatomy = getattr(self.pair, condition_of(self.condition).answered_by)
            ids = [response_ids(self.pair, text) for text in continuations]
            scores: list[tuple[float, bool]] = []
            for start in range(0, len(ids), self.batch_size):
                batch = ids[start : start + self.batch_size]
                scores += response_scores(
                    anatomy,
                    prompts * len(batch),
                    batch,
                    pad_id=self.pair.pad_id,
                    interventions=made * len(batch),
                )
            return [scores]

        (result,) = self._isolated([question], work)
        return [result] * len(continuations) if isinstance(result, Exception) else result

    def _isolated(
        self,
        questions: Sequence[Callable[[], Question]],
        work: Callable[[list[EncodedPrompt], list[Intervention | None]], list[Any]],
    ) -> list[Any]:
        """The work done on a batch; if that fails, on each question alone, with the error where one fails again."""
        try:
            ready = [question() for question in questions]
            prompts = [self.pair.encode(q.problem, q.turns) for q in ready]
            problems = [q.problem for q in ready]
            how = {"problems": problems, "seed": self.seed, "batch_size": self.batch_size}
            return work(prompts, prepare_seeing(self.condition, self.pair, prompts, **how))
        except Exception as error:  # a task's own code, a file, memory: an evaluation of hours goes on
            traceback.clear_frames(error.__traceback__)  # their tensors would be kept with it
            if len(questions) == 1:
                return [error]
        return [outcome for question in questions for outcome in self._isolated([question], work)]


def make_problem(name: str, parts: Sequence[Part], system: str | None = None) -> Problem:
    """A problem of texts and pictures in any order; it shows the images first, then the video, then the texts.

    Args:
        name: its id.
        parts: texts and pictures.
        system: None leaves it to the pair's preset.

    Raises:
        InputError: no text, several videos, or a picture that can't be read.
    """
    texts = [value for kind, value in parts if kind == "text" and value.strip()]
    images = [image for kind, value in parts if kind == "image" for image in pictures(value, name)]
    videos = [value for kind, value in parts if kind == "video"]
    if len(videos) > 1:
        raise InputError(
            f"{name} has {len(videos)} videos; a problem has one at most: give the others as images"
        )
    frames, metadata = read_video(_local(videos[0]), f"{name}: video", Path()) if videos else ((), {})
    return Problem(
        name, "\n".join(texts), images=tuple(images), video=frames, system=system, metadata=metadata
    )


def make_question(name: str, messages: Sequence[tuple[str, Sequence[Part]]]) -> Question:
    """A conversation: one system message at most, the first user's message as the problem, then turns.

    Args:
        name: the problem's id.
        messages: roles (``"system"``, ``"user"``, ``"assistant"``) with their texts and pictures; turns after the problem keep
            the order of theirs.

    Raises:
        InputError: messages that don't begin or end with a user's, a video after the problem, and what `make_problem` refuses.
    """
    system, turns = None, [*messages]
    if turns and turns[0][0] == "system":
        system = "\n".join(value for _, value in turns.pop(0)[1])
    roles = [role for role, _ in turns]
    if not roles or roles[0] != "user" or roles[-1] != "user" or not {*roles} <= {"user", "assistant"}:
        raise InputError(
            f"{name} has messages of {', '.join(roles) or 'nobody'}; expected a user's first and last, after one of system"
        )
    first, *later = [parts for _, parts in turns]
    after = [
        Message("assistant" if role == "assistant" else "user", _in_order(name, parts))
        for role, parts in zip(roles[1:], later, strict=True)
    ]
    return Question(make_problem(name, first, system), tuple(after))


def _in_order(name: str, parts: Iterable[Part]) -> tuple[Any, ...]:
    """The parts of a turn after the problem, which keeps their order."""
    content: list[Any] = []
    for kind, value in parts:
        if kind not in ("text", "image"):
            raise InputError(f"{name} has {kind} in a later message; expected text and images there")
        content += [value] if kind == "text" else pictures(value, name)
    return tuple(content)


def pictures(value: Any, name: str) -> tuple[Any, ...]:
    """The images that one value of a message stands for."""
    return read_images(_local(value), f"{name}: image", Path())


def kind_of(visual: Any) -> Kind:
    """What a picture without a name of its kind is: a path by its ending, all else an image."""
    if isinstance(visual, str | Path) and not str(visual).startswith("data:"):
        return "image" if Path(visual).suffix.lower() in SUFFIXES - {".gif"} else "video"
    return "image"


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A response up to the first stop string."""
    return text[: min((text.index(s) for s in stops if s in text), default=len(text))]


def told(error: Exception) -> str:
    """What went wrong, in a line."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _condition(pair: ModelPair, wanted: Named | str | None, settings: Mapping[str, Any]) -> Named:
    if isinstance(wanted, Condition):
        return wanted
    if wanted in ("replay", "patch"):
        make = pair.replay if wanted == "replay" else pair.patch
        return make(**{name: _value(value) for name, value in settings.items()})
    return "base" if wanted == "base" else "rlvr"


def _check_settings(wanted: Named | str | None, settings: Mapping[str, Any]) -> None:
    """Refuse what can be refused before anything is loaded."""
    kinds = {"replay": Replay, "patch": Patch}
    names = (None, "none", "rlvr", "base", *kinds)
    if not isinstance(wanted, Condition) and wanted not in names:
        raise InputError(
            f"`intervention` is {wanted!r}; expected one of {', '.join(names[1:])}"
            f"{nearest(str(wanted), names[1:])}, a Replay, a Patch or an Adapter: {_CALL}"
        )
    kind = kinds.get(wanted) if isinstance(wanted, str) else None
    possible = [f.name for f in fields(kind)] if kind else []
    for name in settings:
        if name not in possible:
            raise InputError(
                f"`{name}` is no setting of intervention {wanted!r}{nearest(name, possible)}; "
                f"it has {', '.join(possible) or 'none'}: {_CALL}"
            )


def _value(given: Any) -> Any:
    """A setting as a value, if it came as a word."""
    if not isinstance(given, str):
        return given
    if given.lower() == "none":
        return None
    if given.startswith("["):
        try:
            return tuple(json.loads(given))
        except ValueError as error:
            raise InputError(f"a setting is {given!r}; expected a list such as [4, 5, 6]") from error
    return given


def _local(value: Any) -> Any:
    return str(value).removeprefix("file://") if isinstance(value, str | Path) else value
