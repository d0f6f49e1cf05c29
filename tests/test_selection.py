"""Captions say which cells are low: by a selection's rule, as the lowest of strata, or in the names of conditions."""

import pytest
import torch

from workbench.conditions import condition_of
from workbench.interventions import Patch, Replay
from workbench.lens.strata import fraction_strata, quantile_strata
from workbench.selection import LOW, Selection, Strata, low_note

PAPER = "entropy at most 0.4 of the layer's largest"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Selection(), f"low: {PAPER}"),
        (LOW, "low: the 40% of a layer's cells that are lowest in entropy"),
        (Selection(threshold="fixed", levels=(2.0,)), "low: entropy below the layer's level"),
        (Strata(5), "stratum 0: lowest fifth of base entropy, by layer and kind"),
        (Strata(2, of="the quantity"), "stratum 0: lowest half of the quantity, by layer and kind"),
        (Strata(12), "stratum 0: lowest of 12 parts of base entropy, by layer and kind"),
        (
            Strata(4, "fraction"),
            "stratum 0: base entropy at most 1/4 of the prompt's largest, by layer and kind",
        ),
    ],
)
def test_every_rule_is_worded(rule, words):
    assert low_note(rule) == words
    assert low_note(rule, "0") == "0" + words[words.index(":") :]


def test_the_wording_of_strata_is_what_they_hold():
    entropy = torch.arange(1.0, 21.0)
    assert (quantile_strata(entropy, 5) == 0).sum() == len(entropy) / 5  # "lowest fifth"
    lowest = fraction_strata(entropy, (0.25, 0.5, 0.75)) == 0
    assert lowest.tolist() == (entropy <= entropy.max() / 4).tolist()  # "at most 1/4 of the largest"


def test_conditions_of_one_rule_have_one_sentence_and_others_are_named():
    conditions = {
        "base": "base",
        "tokens, low": Replay(),
        "tokens, high": Replay(select="high"),
        "patch, low": Patch(threshold="quantile", tau=0.2),
        "tokens, all": Replay(select="all", tau=0.1),
    }
    described = {name: condition_of(condition).described for name, condition in conditions.items()}
    assert low_note(described) == (
        f"low: {PAPER}; but the 20% of a layer's cells that are lowest in entropy (patch, low)"
    )
    assert low_note({name: described[name] for name in ("base", "tokens, all")}) == ""
    by_hand = condition_of(Patch(cells=lambda prompt: torch.ones(len(prompt), dtype=torch.bool))).described
    assert low_note({"patch": by_hand}) == f"low: {PAPER}, of cells chosen by hand"
