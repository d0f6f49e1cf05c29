"""Where a response ends, what may never be drawn, and how the tokens drawn read as text."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.chat import tokenizer_of
from workbench.models.comparability import ends_of


class Stops:
    """The ends of one model's responses: tokens that end one, strings that do, and tokens that may not be drawn.

    Raises:
        InputError: no tokenizer, or neither model nor tokenizer names a token that ends a response.
    """

    def __init__(self, processor: Any, anatomy: Anatomy, strings: Sequence[str] = ()) -> None:
        strings = (strings,) if isinstance(strings, str) else strings
        if not isinstance(strings, list | tuple) or not all(isinstance(s, str) and s for s in strings):
            raise InputError(
                f"`stop` is {strings!r}; expected texts that are not empty: decode(pair, prompt, stop=['\\n\\n'])"
            )
        self.tokenizer, self.strings = tokenizer_of(processor), tuple(strings)
        if self.tokenizer is None:
            raise InputError(
                "`pair` has no tokenizer, so responses can't be turned into text: load_pair(..., processor=<folder or hub id>)"
            )
        settings = getattr(anatomy.model, "generation_config", None)
        ends = ends_of(anatomy)
        own = getattr(self.tokenizer, "eos_token_id", None)
        self.ends = sorted(ends if own is None else ends | {own})
        if not self.ends:
            raise InputError(
                "`pair` names no token that ends a response; set `model.generation_config.eos_token_id`, or give a tokenizer "
                "that has an `eos_token`"
            )
        suppressed = getattr(settings, "suppress_tokens", None) or ()
        self.forbidden = sorted({*anatomy.visual_token_ids, *suppressed})
        self.tail = max((len(s) for s in self.strings), default=1)
        """How many tokens back a stop string can begin: it may begin inside a token, but each has a letter of it."""

    def ended(self, recent: Int[Tensor, "rows tail"]) -> Bool[Tensor, "rows"]:
        """Which rows end with the last of their ``tail`` most recent tokens; -1 is none."""
        over = torch.isin(recent[:, -1], torch.tensor(self.ends, device=recent.device))
        if self.strings:
            texts = [self._text([i for i in row if i >= 0]) for row in recent.tolist()]
            hits = [any(s in text for s in self.strings) for text in texts]
            over = over | torch.tensor(hits, device=recent.device)
        return over

    def read(self, ids: Sequence[int]) -> tuple[str, int, bool]:
        """(text up to the first stop string, tokens, whether it ended by itself) of a response's tokens."""
        text = self._text(ids)
        cuts = [text.index(s) + len(s) for s in self.strings if s in text]
        return text[: min(cuts)] if cuts else text, len(ids), bool(cuts) or ids[-1] in self.ends

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
