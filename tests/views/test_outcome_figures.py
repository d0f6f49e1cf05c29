"""Figures of interventions: lines that can be told apart."""

import pandas as pd

from workbench.views.outcome_figures import pass_at_k_curves


def test_no_two_conditions_share_a_look():
    names = ["base", "rlvr", "tokens, low", *(f"condition {i}" for i in range(7))]
    rows = [
        {
            "intervention": n,
            "measure": f"Pass@{k}",
            "estimate": 0.5,
            "estimate_low": 0.4,
            "estimate_high": 0.6,
            "problems": 9,
        }
        for n in names
        for k in (1, 2)
    ]
    lines = [line for line in pass_at_k_curves(pd.DataFrame(rows)).data if line.name]
    looks = {(line.line.color, line.marker.symbol) for line in lines if line.mode == "lines+markers"}
    assert len(looks) == len({colour for colour, _ in looks}) == len(names)
