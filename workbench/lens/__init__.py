"""The mathematics of the logit lens, on tensors alone: heads, statistics of their distributions, strata.

A `LensHead` is a model's final norm and unembedding. `compare` and `summarise` (`fused`) give entropy, KL, top-k and more of
both models' predictions in blocks of the vocabulary, so that (positions, vocabulary) never exists; `kl` is that of distributions
which are there as a whole; `neighbours` finds the nearest of many states; `strata` says which cells have low entropy. Everything
is in nats.

    from workbench.lens import LensHead, summarise
    summarise(hidden, LensHead(norm, weight)).entropy

A new statistic is computed beside the others in `fused` and gets a naive twin in ``tests/lens``.
"""

from workbench import lazy_names

_HOME = {
    "LensHead": "heads",
    "HeadStats": "fused",
    "LensStats": "fused",
    "compare": "fused",
    "summarise": "fused",
    "matched_noise": "fused",
    "moved_along": "fused",
    "log_probabilities": "token_probabilities",
    "nearest": "neighbours",
    "rank_of": "neighbours",
    "quantile_strata": "strata",
    "fraction_strata": "strata",
    "select_cells": "strata",
}

__all__ = [*_HOME]  # noqa: PLE0604  (lazy names)


__getattr__, __dir__ = lazy_names(__name__, _HOME)
