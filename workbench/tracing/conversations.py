"""Prompts with the responses that follow them: what `trace(..., responses=...)` reads, checked before anything runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem

CALL = "trace(pair, problems, responses=[r for each in decode_many(pair, problems) for r in each])"


@runtime_checkable
class Drawn(Protocol):
    """A response that a model drew, such as `decode` returns."""

    @property
    def problem_id(self) -> str:
        """The problem that it answers."""
        ...

    @property
    def sample(self) -> int:
        """Its number among the responses to the problem."""
        ...

    @property
    def text(self) -> str:
        """Its words."""
        ...

    @property
    def ids(self) -> tuple[int, ...]:
        """Its tokens as they were drawn; empty where they are not known."""
        ...


Spoken: TypeAlias = str | Drawn
Responses: TypeAlias = Mapping[str, Spoken | Sequence[Spoken]] | Sequence[Drawn | Sequence[Drawn]]
"""By problem id a response or several; or a list of drawn ones, which know their problems, in lists of any length."""


@dataclass(frozen=True, eq=False)
class Conversation:
    """A prompt and one response to it, or none."""

    prompt: EncodedPrompt
    whole: EncodedPrompt
    """The prompt with the response after it; without one the prompt."""
    sample: int | None = None
    """The response's number among those to its problem."""

    @property
    def ids(self) -> Int[Tensor, " tokens"]:
        """Of the response."""
        return self.whole.input_ids[len(self.prompt) :]


def conversations(
    pair: ModelPair, items: Sequence[Problem | EncodedPrompt], responses: Responses | None
) -> Iterable[list[Conversation]]:
    """Per problem its conversations, as many as there are responses; with None one that is the prompt alone, when asked for.

    Raises:
        InputError: a problem without a response or a response without its problem; one that is empty, has placeholders of
            pictures or ids of another tokenizer, or does not fit the context.
    """
    if responses is None:
        return ([Conversation(prompt, prompt)] for prompt in map(pair.encode, items))
    names = [item.problem_id if isinstance(item, EncodedPrompt) else item.id for item in items]
    given = _by_problem(responses)
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"`responses` has one to {unknown[0]!r}, which is not among the {len(names)} problems ({names[0]!r}, ...); give the "
            f"problems that were answered: {CALL}"
        )
    if silent := [name for name in names if not given.get(name)]:
        raise InputError(
            f"`responses` has none to {silent[0]!r}; answer it, or leave the problem out: {CALL}"
        )
    spoken = {name: [(number, _ids(pair, name, one)) for number, one in given[name]] for name in names}
    made = []
    for name, item in zip(names, items, strict=True):
        prompt = pair.encode(item)
        if prompt.response_start < len(prompt):
            raise InputError(
                f"`responses`: the prompt {name!r} ends with a response already; give one without, or leave `responses` out: "
                "trace(pair, [pair.encode(problem, response=text)])"
            )
        wholes = [(number, pair.encode(prompt, response=ids)) for number, ids in spoken[name]]
        made.append([Conversation(prompt, whole, number) for number, whole in wholes])
    return made


@contextmanager
def called(name: str) -> Iterator[None]:
    """Meanwhile what is refused here is said of another function that takes responses as `trace` does."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("trace(pair, ", f"{name}(pair, ")) from error


def with_responses(
    pair: ModelPair, items: Sequence[Problem | EncodedPrompt], responses: Responses | None
) -> list[tuple[int, EncodedPrompt]]:
    """Every prompt with a response after it, in the order of a trace, and which of the items it is of; errors as there."""
    groups = conversations(pair, items, responses)
    return [(number, one.whole) for number, group in enumerate(groups) for one in group]


def _by_problem(responses: Responses) -> dict[str, list[tuple[int, Spoken]]]:
    """Problem id -> (sample, response) of each."""
    given: dict[str, list[tuple[int, Spoken]]] = {}
    if isinstance(responses, Mapping):
        for name, value in responses.items():
            some = [value] if isinstance(value, str) or not isinstance(value, Sequence) else [*value]
            given[name] = [
                (one.sample if isinstance(one, Drawn) else place, _checked(one, str, Drawn))
                for place, one in enumerate(some)
            ]
        return given
    for one in _flat(responses):
        given.setdefault(one.problem_id, []).append((one.sample, one))
    return given


def _flat(responses: Any) -> Iterator[Drawn]:
    if isinstance(responses, (str, Drawn)) or not isinstance(responses, Sequence):
        raise InputError(
            f"`responses` is a {type(responses).__name__}; expected a list of responses, or texts by problem id: {CALL}, "
            "trace(pair, problems, responses={problems[0].id: '<answer> 3</answer>'})"
        )
    for one in responses:
        if isinstance(one, Sequence) and not isinstance(one, str):
            yield from _flat(one)
        else:
            yield _checked(one, Drawn)


def _checked(one: Any, *kinds: type) -> Any:
    if not isinstance(one, kinds):
        raise InputError(
            f"`responses` holds a {type(one).__name__}; expected what `decode` returns, or texts by problem id: {CALL}, "
            "trace(pair, problems, responses={problems[0].id: '<answer> 3</answer>'})"
        )
    return one


def _ids(pair: ModelPair, name: str, one: Spoken) -> list[int]:
    """Token ids of a response; of a drawn one those that were drawn, where it has them."""
    text, drawn = (one, ()) if isinstance(one, str) else (one.text, one.ids)
    try:
        ids: list[int] = pair.ids_of(drawn or text).tolist()
    except InputError as error:
        raise InputError(f"`responses`, to {name!r}: {error}") from error
    if drawn and pair.tokenizer is not None:
        spelt: str = pair.tokenizer.decode(ids, skip_special_tokens=True)
        if not spelt.startswith(text):
            raise InputError(
                f"`responses`, to {name!r}: its ids spell {spelt[:40]!r} in the tokenizer of {pair.name!r}, and its text is "
                f"{text[:40]!r}; they are of another tokenizer: give texts, responses={{response.problem_id: response.text}}"
            )
    return ids
