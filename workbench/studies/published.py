"""The paper's own numbers, to stand beside what is measured here."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import pandas as pd


def published() -> pd.DataFrame:
    """The paper's numbers: table, model, setting, benchmark, accuracy_percent."""
    with (files("workbench.studies") / "published.csv").open() as file:
        return pd.read_csv(file)


def published_changes(tables: Sequence[str], settings: Mapping[str, str]) -> pd.DataFrame:
    """What the paper reports against its RLVR models, as `paper_figures.beside_published` reads it.

    `settings` maps a setting of the paper's tables to what it is called here. Points; no intervals were published.
    """
    table = published()
    table = table.loc[table["table"].isin(tables)]
    plain = table.loc[table["setting"] == "rlvr"].set_index(["table", "model", "benchmark"])
    rows = []
    for row in table.loc[table["setting"].isin(list(settings))].to_dict("records"):
        key, accuracy = (row["table"], row["model"], row["benchmark"]), row["accuracy_percent"]
        if key in plain.index:
            rows.append(
                {
                    "source": "published",
                    "row": f"{row['model']} ({row['table']})",
                    "benchmark": row["benchmark"],
                    "setting": settings[row["setting"]],
                    "accuracy": accuracy,
                    "change": accuracy - float(plain.loc[key, "accuracy_percent"]),
                    "change_low": np.nan,
                    "change_high": np.nan,
                }
            )
    return pd.DataFrame(rows)
