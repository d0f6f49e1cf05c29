"""How responses are drawn, as a value: how many, how warm, from which seed, how long, how many prompts at a time, by what."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from workbench.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; `ModelPair.sampling` fills in what suits a pair.

    Attributes:
        samples: responses to each prompt, all from one prefill.
        temperature: 0 is greedy.
        seed: of the random streams; each problem has its own, sample i reads row i of it.
        max_new_tokens: where a response is cut off, in tokens.
        batch_size: prompts per forward.
        engine: what draws the responses: None for this process, ``"vllm"`` or a `VllmEngine`.
    """

    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    max_new_tokens: int = 1024
    batch_size: int = 8
    engine: Any = None

    @property
    def greedy(self) -> Self:
        """One response to each prompt, without chance."""
        return replace(self, samples=1, temperature=0.0)

    @property
    def settings(self) -> dict[str, Any]:
        """What the responses depend on, by name; an engine only where there is one."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.engine is None:
            values.pop("engine")
        return values

    def check(self) -> None:
        """Refuse what no response can be drawn with.

        Raises:
            InputError: a number outside its range.
        """
        for name, least in (("samples", 1), ("max_new_tokens", 1), ("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"`{name}` is {value!r}; expected a whole number of at least {least}: decode(pair, prompt, {name}=16)"
                )
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not 0 <= self.temperature < float("inf"):
            raise InputError(
                f"`temperature` is {self.temperature!r}; expected 0 (greedy) or more: decode(pair, prompt, temperature=1.0)"
            )
