"""A response as a value: what a model wrote, its tokens, and whether it stopped by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.views import markup


@dataclass(frozen=True)
class Response:
    """One response to one problem."""

    problem_id: str
    sample: int
    text: str
    tokens: int
    """Tokens generated, the stop token included."""
    finished: bool
    """Whether it stopped by itself, rather than at `max_new_tokens`."""
    seconds: float = field(compare=False)
    """Its share of the wall time of its batch."""
    ids: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """The tokens generated: ``pair.encode(problem, response=response.ids)`` is the prompt with them."""
    replaced: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """Which of the tokens, counted from 0, two models that decode together drew otherwise than the one that answers: by the other
    (`CrossSample`), or from extrapolated logits (`Extrapolate`)."""
    values: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """What their criterion was worth at each token, in nats; none without one."""

    cells: int = field(default=0, repr=False, compare=False)
    """How many (layer, token) cells of it were overwritten as it was decoded: `Patch` of ``when="decoding"`` or ``"both"``."""

    def _repr_html_(self) -> str:
        return response_html(self)


@dataclass(frozen=True)
class Written:
    """A response's tokens as they were drawn, with what `Response` says of them."""

    ids: Sequence[int]
    replaced: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    cells: int = 0


def response_html(response: Response) -> str:
    """The text of a response and how it ended."""
    ended = "finished" if response.finished else "cut off"
    caption = f"{response.problem_id}, sample {response.sample}: {response.tokens:,} tokens, {ended}"
    return markup.paragraph(caption) + markup.paragraph(response.text)
