"""Cross-sampling at chosen shares: thresholds against a naive sort, the share replaced, claims, figures."""

import numpy as np
import pandas as pd
import pytest
import tiny

from workbench.decoding.decode import decode
from workbench.errors import InputError
from workbench.experiments.ablation import ablate
from workbench.experiments.crossing import NEVER, crossing_grid, crossing_name, crossing_table
from workbench.mixtures import CrossSample
from workbench.studies.mixture_claims import crossing_claims, extrapolation_claims
from workbench.studies.published import published_shares
from workbench.views.mixture_figures import accuracy_by_gamma, accuracy_by_share

SHARES = (0.1, 0.5)


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=seed, id=f"p{seed}") for seed in range(3)]


@pytest.fixture(scope="module")
def grid(tiny_pair, problems):
    return crossing_grid(tiny_pair, problems, SHARES, samples=2, seed=5, max_new_tokens=8)


@pytest.fixture(scope="module")
def found(tiny_pair, problems, grid):
    return ablate(tiny_pair, problems, grid, samples=2, max_new_tokens=8, seed=1)


def test_the_grid_has_both_ways_all_criteria_and_all_shares(grid):
    assert len(grid) == 2 * 5 * len(SHARES)
    assert grid["rlvr into base, random, 50%"] == CrossSample("base", "random", budget=0.5, seed=5)
    assert grid["base into rlvr, low divergence, 10%"].criterion == "low_divergence"


@pytest.mark.parametrize("criterion", [*NEVER])
def test_a_threshold_is_met_by_its_share_of_the_hosts_own_tokens(tiny_pair, problems, grid, criterion):
    quiet = CrossSample("rlvr", criterion, threshold=NEVER[criterion])
    values = []
    for problem in problems:
        for response in decode(
            tiny_pair, problem, intervention=quiet, samples=2, temperature=1.0, seed=5, max_new_tokens=8
        ):
            assert not response.replaced
            values += response.values
    for share in SHARES:
        threshold = grid[crossing_name("rlvr", criterion, share)].threshold
        met = [value < threshold if criterion == "low_divergence" else value >= threshold for value in values]
        # The two samples of a problem begin alike: of values that are equal but for rounding, both or neither meet it.
        assert abs(sum(met) - share * len(values)) <= 2


def test_the_table_says_what_was_replaced(found, grid):
    table = crossing_table(found, grid, SHARES).set_index(["intervention", "measure"])
    half, none = table.loc[("rlvr into base, random, 50%", "greedy")], table.loc[("base", "greedy")]
    rows = found.responses.loc[found.responses["intervention"] == "rlvr into base, random, 50%"]
    assert half["replaced"] == rows["replaced"].sum() / rows["tokens"].sum()
    assert abs(half["replaced"] - 0.5) < 0.15  # to within one token a response
    assert (half["host"], half["criterion"], half["asked"]) == ("base", "random", 0.5)
    assert (none["replaced"], none["criterion"]) == (0, "none")


def test_claims_are_paired_differences(found):
    claims = {claim.claim: claim for claim in crossing_claims(found.responses, 0.5)}
    drawn = found.responses.loc[found.responses["sample"] >= 0]
    means = 100 * drawn.groupby("intervention")["correct"].mean()
    lift = claims["a few tokens of the RLVR model lift the base"]
    assert lift.interval.estimate == pytest.approx(means["rlvr into base, divergence, 50%"] - means["base"])
    assert claims["a few tokens of the RLVR model are enough"].bound == -5
    assert not claims["a few tokens of the base bring the RLVR model down"].above
    named = found.responses.replace({"intervention": {"rlvr into base, random, 10%": "gamma 0.5"}})
    assert [claim.problems for claim in extrapolation_claims(named, "gamma 0.5", 2)] == [3, 3]


def test_figures_hold_the_tables_numbers(found, grid):
    table = crossing_table(found, grid, SHARES)
    figure = accuracy_by_share(table, published=published_shares())
    lines = [line for line in figure.data if line.name == "divergence"]
    for line, host in zip(lines, ("base", "rlvr"), strict=True):
        rows = table.loc[
            (table["host"] == host) & (table["criterion"] == "divergence") & (table["measure"] == "Pass@1")
        ]
        np.testing.assert_allclose(sorted(line.x), sorted(100 * rows["replaced"]))
    stars = [line for line in figure.data if "published" in str(line.name)]
    points = [point for line in stars for point in zip(line.x, line.y.round(9), strict=True)]
    assert points == [(0, 8.2), (4, 25), (0, 5.3), (1.5, 14)]
    plain = table.loc[
        table["intervention"].isin(["base", "rlvr"]) & (table["measure"] == "Pass@1"), "estimate"
    ]
    assert {shape.y0 for shape in figure.layout.shapes} == {*(100 * plain)}
    rows = [
        (m, gamma, 0.3 + 0.1 * gamma)
        for m in ("greedy", "Pass@1", "Pass@4", "Pass@8")
        for gamma in (-1.0, 0.0, 1.0)
    ]
    curve = pd.DataFrame(rows, columns=["measure", "gamma", "estimate"])
    curve = curve.assign(estimate_low=0.1, estimate_high=0.7, problems=30)
    lines = accuracy_by_gamma(curve, chosen=1.0, split="validation").data
    assert [line.name for line in lines] == ["greedy", "Pass@1", "Pass@8"]
    assert [*lines[1].y] == pytest.approx([20, 30, 40])


@pytest.mark.parametrize("shares", [(), (0.0,), (1.5,)])
def test_shares_outside_their_range_are_refused(tiny_pair, problems, shares):
    with pytest.raises(InputError, match="expected shares of the tokens above 0 and at most 1"):
        crossing_grid(tiny_pair, problems, shares)
