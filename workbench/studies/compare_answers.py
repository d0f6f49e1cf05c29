"""Answers of several pairs: every condition's accuracy, and its difference to the plain RLVR model, as claims are compared.

Studies and sweeps have it of whatever conditions they ran. A condition is the same one where its name is; the words of a
difference are made here, so that `pooled_claims` pools what two runs have alike.
"""

from collections.abc import Mapping
from math import isnan, nan

import pandas as pd

from workbench.analysis.pooled_claims import BY_PAIR, claims_by_pair
from workbench.analysis.verdicts import Claim, claim_table
from workbench.estimates import Interval

ACCURACY = Interval.names("accuracy")
COLUMNS = (*BY_PAIR, *ACCURACY)
PLACE, PLAIN = "answers", "rlvr"


def answers_by_pair(tables: Mapping[str, pd.DataFrame], same: Mapping[str, str]) -> pd.DataFrame:
    """One row a condition, measure and pair, in the columns of claims by pair; beside them accuracy, in percent.

    Args:
        tables: by pair `ablate`'s summary: intervention, measure, problems, estimate and vs_rlvr with their ends, shares of 1.
        same: pairs whose models are those of another, and which.
    """
    differences, accuracies = {}, []
    for pair, table in tables.items():
        claims = []
        for row in table.to_dict("records"):
            name, measure, problems = str(row["intervention"]), str(row["measure"]), int(row["problems"])
            what, interval = f"{measure}, {name} − rlvr, points", Interval.in_row(row, "vs_rlvr").times(100)
            if name == PLAIN:
                what, interval = f"{measure}, {name}", Interval(nan, nan, nan)
            none = "what the others are compared with" if name == PLAIN else "no interval"
            obstacle = none if isnan(interval.low) else None
            claims.append(Claim(name, PLACE, what, interval, problems, obstacle=obstacle))
            accuracy = Interval.in_row(row, "estimate").times(100).columns("accuracy")
            accuracies.append({"pair": pair, "measured": what} | accuracy)
        if claims:
            differences[pair] = claim_table(claims)
    rows = claims_by_pair(differences, same)
    if rows.empty:
        return pd.DataFrame(columns=[*COLUMNS])
    # Of a condition in several rows the first is listed, as `claims_by_pair` has it.
    first = pd.DataFrame(accuracies).drop_duplicates(["pair", "measured"])
    return rows.merge(first, on=["pair", "measured"], how="left").loc[:, [*COLUMNS]]
