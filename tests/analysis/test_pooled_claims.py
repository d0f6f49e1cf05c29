"""Which numbers of several pairs are the same, and what is pooled of them."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from workbench.analysis.pooled_claims import BY_PAIR, NUMBER, TOGETHER, claims_by_pair, pooled_claims
from workbench.analysis.verdicts import Claim, claim_table
from workbench.estimates import Interval, pool

pytestmark = pytest.mark.quick
NAN = float("nan")


def claims(middle: float, **others) -> pd.DataFrame:
    """A factor, a difference, and one that names the stratum that turned out the largest."""
    about = {"bound": 1.0, "factor": True, "kind": "visual"}
    where = f"lowest fifth over the largest of the others, stratum {others.pop('stratum', 1)} (a factor)"
    factor = Interval(*np.exp([middle, middle - 0.2, middle + 0.3]).tolist())
    return claim_table(
        [
            Claim("shifts", "section 3", "lowest over highest (a factor)", factor, 64, **about),
            Claim("shifts most", "section 3", where, factor, 64, **about),
            Claim(
                "narrows",
                "Figure 6",
                "points",
                Interval(middle, middle - 2, middle + 2),
                30,
                above=False,
                **others,
            ),
        ]
    )


def test_the_same_words_are_the_same_number_whichever_stratum_was_largest():
    rows = claims_by_pair({"a": claims(0.5, stratum=1), "b": claims(0.7, stratum=3)})
    assert list(rows) == list(BY_PAIR)
    assert len(rows) == 6
    assert rows["pair"].tolist() == ["a", "b"] * 3
    assert rows.groupby(NUMBER, sort=False).ngroups == 3
    assert rows["scale"].tolist() == ["factor"] * 4 + ["difference"] * 2
    table = pooled_claims(rows)
    assert list(table) == list(TOGETHER)
    pooled = pool([Interval(*np.exp([m, m - 0.2, m + 0.3])) for m in (0.5, 0.7)], [64, 64], factor=True)
    first = table.iloc[0]
    assert (first["estimate"], first["estimate_low"]) == pytest.approx(
        (pooled.interval.estimate, pooled.interval.low)
    )
    assert first["i2"] == pytest.approx(pooled.i2)


def test_verdicts_over_pairs_and_holms_of_their_p_values():
    rows = claims_by_pair({name: claims(0.5 + 0.01 * n) for n, name in enumerate("abcde")})
    table = pooled_claims(rows)
    assert table["verdict"].tolist() == ["holds", "holds", "is undecided"]
    assert table["p_adjusted"].tolist() == pytest.approx(multipletests(table["p"], method="holm")[1].tolist())
    assert table["holds"].tolist() == [5, 5, 0]
    assert (table["holds"] + table["fails"] + table["undecided"]).tolist() == table["pairs"].tolist()
    down = pooled_claims(claims_by_pair({name: claims(-3.0 - 0.01 * n) for n, name in enumerate("abcde")}))
    assert down["verdict"].tolist() == ["does NOT hold", "does NOT hold", "holds"]


def test_what_is_not_pooled_says_why():
    one = claims(0.5)
    wrong = claims(0.6)
    wrong.loc[0, ["estimate_low", "estimate_high"]] = NAN
    wrong.loc[1, "estimate_low"] = -0.1
    rows = claims_by_pair({"a": one, "b": wrong, "c": claims(0.5, obstacle="no null")}, {"d": "a"})
    why = rows.set_index(["pair", "claim"])["unpooled"]
    assert why["b", "shifts"] == "no interval"
    assert why["b", "shifts most"] == "a factor whose interval reaches 0"
    assert why["c", "narrows"] == "no null"
    assert why["a", "shifts"] == ""
    twins = claims_by_pair({"a": one, "d": one}, {"d": "a"})
    assert set(twins.loc[twins["pair"] == "d", "unpooled"]) == {"the same models as a"}
    table = pooled_claims(twins)
    assert set(table["verdict"]) == {"cannot be tested"}
    assert table["estimate"].isna().all()
    assert set(table["obstacle"]) == {"fewer than two pairs have an interval to pool"}


def test_what_is_of_too_few_problems_is_listed_and_not_pooled():
    tables = {name: claims(0.5 + 0.01 * n) for n, name in enumerate("abc")}
    all_few = {name: table.assign(problems=9) for name, table in tables.items()}
    table = pooled_claims(claims_by_pair(all_few))
    assert set(table["verdict"]) == {"has too few problems"}
    assert set(table["obstacle"]) == {"fewer than two pairs have 16 problems"}
    assert table[["estimate", "p", "p_adjusted"]].isna().all(axis=None)
    rows = claims_by_pair(tables | {"c": all_few["c"]})
    reasons = rows.groupby("pair")["unpooled"].agg(set)
    assert reasons.to_dict() == {"a": {""}, "b": {""}, "c": {"9 problems, fewer than 16"}}
    table, without = pooled_claims(rows), pooled_claims(claims_by_pair({"a": tables["a"], "b": tables["b"]}))
    assert table["pairs"].tolist() == [3, 3, 3]
    assert table["pooled"].tolist() == [2, 2, 2]
    pd.testing.assert_series_equal(table["estimate"], without["estimate"])
    assert table["verdict"].tolist() == without["verdict"].tolist()


def test_of_runs_of_one_pair_the_first_that_can_be_is_pooled():
    tables = {"a": claims(0.5).assign(problems=9), "twin": claims(0.6), "b": claims(0.7)}
    rows = claims_by_pair(tables, {"twin": "a"})
    assert rows["unpooled"].tolist() == ["9 problems, fewer than 16", "", ""] * 3


@pytest.mark.parametrize("column", ["kind", "place"])
def test_rows_without_a_word_are_kept(column):
    tables = {name: claims(0.5).assign(**{column: None}) for name in "ab"}
    rows = claims_by_pair(tables | {"c": claims(0.5).assign(**{column: NAN, "obstacle": None})})
    assert set(rows[column]) == {""}
    table = pooled_claims(rows)
    assert table["pooled"].tolist() == [3, 3, 3]


def test_of_a_number_in_several_rows_none_is_pooled():
    several = pd.concat([claims(0.5), claims(0.9).iloc[:1]])
    rows = claims_by_pair({"a": several, "b": claims(0.5), "c": claims(0.6)})
    assert len(rows) == 9
    why = rows.set_index(["pair", "claim"])["unpooled"]
    assert why["a", "shifts"] == "the first of 2 rows that this pair has of it"
    assert (why.drop(("a", "shifts")) == "").all()
    assert pooled_claims(rows)["pooled"].tolist() == [2, 3, 3]


def test_a_claim_of_one_pair_alone_is_listed():
    rows = claims_by_pair({"a": claims(0.5), "b": claims(0.5).iloc[:1]})
    table = pooled_claims(rows)
    assert table["pairs"].tolist() == [2, 1, 1]
    assert table["obstacle"].tolist() == ["", "one pair alone has it", "one pair alone has it"]


def test_tables_of_older_versions_lack_columns_and_none_at_all_is_no_row():
    old = claims(0.5).drop(columns=["place", "kind", "p", "p_adjusted", "adjusted", "obstacle"])
    rows = claims_by_pair({"a": old, "b": old.assign(expected="unclear")})
    assert set(rows["place"]) == {""}
    assert "what is expected is unknown: unclear" in set(rows["unpooled"])
    assert pooled_claims(claims_by_pair({})).empty
