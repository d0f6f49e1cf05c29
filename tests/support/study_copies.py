"""Runs of many pairs made of one small study: its tables copied, every estimate moved, models and depth renamed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd


def copy_study(
    run: Path, out: Path, *, pair: str, shift: float = 0.0, seed: int = 0, layers: int | None = None
) -> Path:
    """A run like another, of a pair of its own: claims with made intervals that lie ``shift`` to the side, 64 problems each.

    ``layers`` stretches the table by layer to so many.
    """
    shutil.copytree(
        run, out, ignore=shutil.ignore_patterns("trace", "figures", "report.html", "cells.parquet")
    )
    spec = json.loads((out / "spec.json").read_text())
    spec["pair"]["pair"] = pair
    for role in ("base", "rlvr"):
        spec["pair"][role] |= {"weights": f"{pair}-{role}", "id": f"{pair}/{role}"}
    (out / "spec.json").write_text(json.dumps(spec))
    rng = np.random.default_rng(seed)
    claims = pd.read_parquet(out / "tables" / "claims.parquet")
    factor = claims["expected"].str.endswith(" 1").to_numpy()
    middle = shift + rng.normal(0, 0.2, len(claims))
    for end, step in (("", 0.0), ("_low", -0.3), ("_high", 0.4)):
        claims[f"estimate{end}"] = np.where(factor, np.exp(middle + step), middle + step)
    low, high = claims["estimate_low"], claims["estimate_high"]
    bound = claims["expected"].str.split().str[1].astype(float)
    above = claims["expected"].str.startswith("above")
    right, wrong = np.where(above, low > bound, high < bound), np.where(above, high < bound, low > bound)
    claims["verdict"] = np.select([right, wrong], ["holds", "does NOT hold"], "is undecided")
    claims = claims.drop(columns="detectable").assign(problems=64, obstacle="", adjusted=claims["verdict"])
    claims.to_parquet(out / "tables" / "claims.parquet", index=False)
    answers = out / "tables" / "ablation.parquet"
    if answers.is_file():
        table = pd.read_parquet(answers)
        for end, step in (("", 0.0), ("_low", -0.05), ("_high", 0.06)):
            table[f"vs_rlvr{end}"] = (0.1 * shift + step) * (table["intervention"] != "rlvr") + table[
                "vs_rlvr"
            ]
        table.assign(problems=64).to_parquet(answers, index=False)
    shares = pd.read_parquet(out / "tables" / "shift.parquet")
    scale = np.exp(0.3 * shift * shares["stratum"])
    total = (
        (shares["share"] * scale).groupby([shares[c] for c in ("scope", "layer", "kind")]).transform("sum")
    )
    for name in ("share", "share_low", "share_high"):
        shares[name] = shares[name] * scale / total
    shares.to_parquet(out / "tables" / "shift.parquet", index=False)
    depths = pd.read_parquet(out / "tables" / "agreement.parquet")
    for name in ("kl", "kl_low", "kl_high"):
        depths[name] *= np.exp(shift)
    if layers is not None:
        own = depths["layer"].max() + 1
        parts = [
            depths.loc[depths["layer"] == layer * own // layers].assign(layer=layer)
            for layer in range(layers)
        ]
        depths = pd.concat(parts, ignore_index=True)
    depths.to_parquet(out / "tables" / "agreement.parquet", index=False)
    return out
