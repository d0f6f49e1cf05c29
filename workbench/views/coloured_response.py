"""One response, every token on a tint of its divergence, and behind it what both models would have said there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from workbench.views import markup
from workbench.views.markup import escape
from workbench.views.tables import number, visible

_TINT = "213,94,0"  # the RLVR model's colour
_CHIP = "cursor:pointer;border-radius:3px;padding:0 2px;margin:1px;list-style:none;white-space:pre;background:rgba"


@dataclass(frozen=True, eq=False, repr=False)
class ResponseView:
    """A response coloured by divergence; a click on a token opens both models' first predictions there."""

    positions: pd.DataFrame
    """The rows of ``Divergence.positions`` that are of the response."""
    predictions: Sequence[pd.DataFrame]
    """Per row both models' first predictions: rank, base, p_base, rlvr, p_rlvr."""

    def __repr__(self) -> str:
        text = "".join(self.positions["token"])
        return f"ResponseView({len(self.positions)} tokens: {text[:60]!r})"

    def _repr_html_(self) -> str:
        first = self.positions.iloc[0]
        mean = float(self.positions["jensen_shannon"].to_numpy().mean())
        told = (
            f"{first['problem']}, response {first['sample']}: {len(self.positions):,} tokens, "
            f"mean divergence {number(mean)} nats. The stronger the tint, the further the two models are apart (square root of "
            "the Jensen-Shannon divergence); click a token for both models' predictions there."
        )
        rows = self.positions.to_dict("records")
        chips = [_token(row, table) for row, table in zip(rows, self.predictions, strict=True)]
        return markup.paragraph(told) + f'<div style="line-height:2">{"".join(chips)}</div>'


def _token(row: dict[str, object], table: pd.DataFrame) -> str:
    """A token that opens; names and texts are the models' own, so all are escaped."""
    js = float(str(row["jensen_shannon"]))
    depth = math.sqrt(max(js, 0.0) / math.log(2))
    told = (
        f"position {row['position']}: Jensen-Shannon {number(js)} nats, dlogp {number(float(str(row['dlogp'])))}, "
        f"rank in the base {row['rank_base']}"
    )
    shown = visible(str(row["token"]))
    return (
        f'<details style="display:inline-block;vertical-align:top"><summary title="{escape(told)}" '
        f'style="{_CHIP}({_TINT},{depth:.2f})">{escape(shown)}</summary>'
        f"{markup.paragraph(told)}{markup.table(table)}</details>"
    )
