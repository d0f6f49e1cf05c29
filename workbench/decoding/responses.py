"""A response as a value: what a model wrote, its tokens, and whether it stopped by itself."""

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

    def _repr_html_(self) -> str:
        return response_html(self)


def response_html(response: Response) -> str:
    """The text of a response and how it ended."""
    ended = "finished" if response.finished else "cut off"
    caption = f"{response.problem_id}, sample {response.sample}: {response.tokens:,} tokens, {ended}"
    return markup.paragraph(caption) + markup.paragraph(response.text)
