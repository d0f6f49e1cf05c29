"""Top predictions: how often the two models' lenses name the same token, by layer (the paper's section 3)."""

from workbench.analysis.shift import top_prediction_shift
from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import shift_claims
from workbench.studies.paper import Finding, Given
from workbench.views.shift_figures import layer_curves, prediction_grid

SHOWN = 12
"""Positions of the example: the end of a prompt."""


def analyse(given: Given) -> Finding:
    depth = given.trace.depth
    end = given.trace.select(prompt=0).position[-SHOWN:].tolist()
    curves = {
        "": layer_curves(given.agreement, "top1_agreement", depth=depth),
        "topk": layer_curves(given.agreement, "topk_overlap", depth=depth),
        "example": prediction_grid(top_prediction_shift(given.trace, prompt=0, positions=end), depth=depth),
    }
    claims = [c for c in shift_claims(given.shift, given.agreement) if "predictions" in c.place]
    return Finding(curves, given.agreement, claims)


if __name__ == "__main__":
    run_analysis("top_predictions")
