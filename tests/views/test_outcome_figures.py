"""Figures of interventions: lines that can be told apart."""

import pandas as pd
import pytest

from workbench.views.outcome_figures import accuracy_differences, drift_bars, pass_at_k_curves


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


def caption_of(figure) -> str:
    return figure.layout.title.subtitle.text


def test_captions_say_which_cells_are_low():
    low = "low: entropy at most 0.4 of the layer's largest"
    accuracy = {"intervention": "tokens, low", "measure": "greedy", "problems": 9}
    accuracy |= {"vs_rlvr": 0.1, "vs_rlvr_low": 0.0, "vs_rlvr_high": 0.2}
    differences = accuracy_differences(pd.DataFrame([accuracy]), low=low)
    assert caption_of(differences).endswith(f"<br>{low}")
    assert differences.data[0].error_x.array == pytest.approx(
        [10.0]
    )  # the interval's end, whatever `low` says
    share = {"intervention": "tokens, low", "measure": "Pass@1", "problems": 9}
    share |= {"estimate": 0.5, "estimate_low": 0.4, "estimate_high": 0.6}
    assert caption_of(pass_at_k_curves(pd.DataFrame([share]), low=low)).endswith(f"<br>{low}")
    drift = {"intervention": "tokens, low", "scope": "without last layer", "problems": 9}
    drift |= {"before": 0.2, "kl": 0.1, "kl_low": 0.05, "kl_high": 0.15}
    bars = drift_bars(pd.DataFrame([drift | {"stratum": stratum} for stratum in ("low", "high")]))
    assert "low entropy: the 40% of a layer's cells that are lowest in entropy" in caption_of(bars)
