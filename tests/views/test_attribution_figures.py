"""Figures of attribution say what an approximation gets wrong."""

import numpy as np
import pandas as pd

from workbench.views.attribution_figures import exact_scatter


def test_an_approximation_that_overshoots_shows_its_slope():
    exact = np.linspace(-1, 1, 8)
    where = {"metric": "kl", "where": "all", "direction": "noising"}
    effects = pd.DataFrame({"exact": exact, "relp": 1.7 * exact + 0.2, "component": "L0H0", "problem": "p"})
    told = {"approximation": "relp", "pearson": 1.0, "pearson_low": np.nan, "pearson_high": np.nan}
    figure = exact_scatter(effects.assign(**where), pd.DataFrame([where | told]))
    assert "RelP: r = 1.00, slope 1.70" in figure.layout.annotations[0].text
