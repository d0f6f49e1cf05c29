"""Divergence along responses: where RLVR acts while the model speaks, beside training without RL and random weights."""

from workbench.analysis.null_models import null_pair
from workbench.errors import InputError
from workbench.experiments.divergence import divergence
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import all_controls_of
from workbench.studies.paper import Finding, Given
from workbench.views.response_figures import response_example, token_bars

SAMPLES = 4
"""Responses to a problem, at most."""


def analyse(given: Given) -> Finding:
    o = given.options
    if o.run:
        raise InputError(
            "`--run` keeps no divergence along responses; leave it out, and name the pair: --pair shapes"
        )
    controls = {**all_controls_of(given.pair), "permuted": null_pair(given.pair, "permuted", o.seed)}
    found = divergence(
        given.pair,
        given.problems(),
        controls=controls,
        samples=min(SAMPLES, o.samples),
        seed=o.seed,
        progress=lambda what, done, total: given.progress(f"divergence: {what}", done, total),
    )
    figures = {
        "": found.plot(),
        "tokens": token_bars(found.tokens),
        "example": response_example(found.positions),
    }
    return Finding(figures, found.summary, found.claims)


if __name__ == "__main__":
    run_analysis("divergence")
