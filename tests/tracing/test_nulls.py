"""Nulls in activations: as long as the change, of other problems, with the changes' covariance; `trace` holds them against it."""

from functools import cache

import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.lens.fused import moved_along
from workbench.models.prompts import TokenKind
from workbench.tracing.both_models import Stretch, compare_residuals
from workbench.tracing.conversations import conversations
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.nulls import Changes, FromChanges, collect_changes
from workbench.tracing.trace import trace

TEXT, VISUAL = int(TokenKind.TEXT), int(TokenKind.VISUAL)


@cache
def pair():
    return tiny.pair("qwen2_5_vl", torch.float32)


@cache
def problems():
    return tuple(tiny.problem("qwen2_5_vl", seed=seed) for seed in (0, 3, 7, 11))


@cache
def collected(batch_size=2, cells=10_000):
    groups, made = conversations(pair(), problems(), None), [None] * len(problems())
    return collect_changes(
        pair(), groups, problems=len(problems()), made=made, cells=cells, batch_size=batch_size
    )


def residuals(prompt):
    """Layer -> (base, rlvr) of one prompt alone."""
    return compare_residuals(pair(), [prompt], lambda layer, base, rlvr: (base.clone(), rlvr.clone()))


def stretch(name="other", kinds=(TEXT, VISUAL, VISUAL)):
    return Stretch(name, False, torch.tensor(kinds))


def test_moves_along_directions_exactly_as_far_as_the_change():
    base, rlvr, along = torch.randn(5, 8), torch.randn(5, 8), torch.randn(3, 5, 8)
    along[:, 2] = 0
    moved = moved_along(base, rlvr, along) - base
    lengths = (rlvr - base).norm(dim=-1).expand(3, 5).clone()
    lengths[:, 2] = 0
    torch.testing.assert_close(moved.norm(dim=-1), lengths)
    cosine = torch.cosine_similarity(moved, along, dim=-1)
    torch.testing.assert_close(cosine[:, [0, 1, 3, 4]], torch.ones(3, 4))
    with pytest.raises(InputError, match=r"`directions` must have shape \(draws, \*\(5, 8\)\)"):
        moved_along(base, rlvr, along[:, :4])


def test_every_change_of_every_problem_is_collected_once():
    changes = collected()
    prompts = [pair().encode(problem) for problem in problems()]
    for layer in range(pair().depth):
        for kind in (TEXT, VISUAL):
            alone = [
                (rlvr - base)[prompt.kinds == kind]
                for prompt in prompts
                for base, rlvr in (residuals(prompt)[layer],)
            ]
            torch.testing.assert_close(changes.rows[layer, kind], torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_sample_of_changes_is_the_same_in_any_batching():
    one, many = collected(1, 12), collected(4, 12)
    assert one.owners == many.owners
    for key, rows in one.rows.items():
        assert 4 <= len(rows) <= 12
        torch.testing.assert_close(rows, many.rows[key], rtol=1e-4, atol=1e-5)


def test_exchanged_changes_are_other_problems_own():
    base, rlvr = torch.zeros(3, 4), torch.eye(3, 4) * torch.tensor([[2.0], [3.0], [5.0]])
    text, visual = torch.randn(6, 4), torch.randn(6, 4)
    owners = ["own"] * 2 + ["other"] * 4
    changes = Changes({(1, TEXT): text, (1, VISUAL): visual}, {(1, TEXT): owners, (1, VISUAL): owners})
    drawn = FromChanges("exchanged", changes, 200, 0)(1, stretch("own"), base, rlvr)
    assert drawn.shape == (200, 3, 4)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.tensor([2.0, 3.0, 5.0]).expand(200, 3))
    for place, rows in enumerate((text, visual, visual)):
        direction = torch.nn.functional.normalize(drawn[:, place], dim=-1)
        likeness = direction @ torch.nn.functional.normalize(rows, dim=-1).T
        nearest = likeness.max(1)
        torch.testing.assert_close(nearest.values, torch.ones(200))
        assert set(nearest.indices.tolist()) == {2, 3, 4, 5}


def test_covariance_null_has_the_directions_of_the_changes():
    torch.manual_seed(0)
    scales = torch.tensor([3.0, 1.0, 0.1])
    rows = torch.randn(400, 3) * scales + 7  # the mean is not part of the covariance
    changes = Changes({(0, TEXT): rows}, {(0, TEXT): ["other"] * 400})
    base, rlvr = torch.zeros(1, 3), torch.ones(1, 3)
    drawn = FromChanges("covariance", changes, 20_000, 1)(0, stretch("own", [TEXT]), base, rlvr)[:, 0]
    wanted = torch.distributions.MultivariateNormal(torch.zeros(3), torch.cov(rows.T)).sample((20_000,))
    wanted = torch.nn.functional.normalize(wanted, dim=-1) * 3**0.5
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(wanted.T), rtol=0.05, atol=0.03)


@pytest.mark.parametrize("null", ["covariance", "exchanged"])
def test_trace_reads_the_null_with_the_rlvr_models_head(null):
    found = trace(pair(), problems(), null=null, null_draws=2, batch_size=3)
    plain = trace(pair(), problems(), null_draws=2, batch_size=3)
    assert found.provenance["against"] == null
    assert "against" not in plain.provenance
    assert torch.equal(found.kl, plain.kl)
    assert not torch.allclose(found.kl_null, plain.kl_null)
    # One prompt by hand, through full log probabilities.
    prompt, heads = pair().encode(problems()[1]), lens_heads(pair())
    against = FromChanges(null, collected(3, 512), 2, 0)
    base, rlvr = residuals(prompt)[1]
    draws = against(1, Stretch(prompt.problem_id, False, prompt.kinds), base, rlvr)
    logits = [head.weight @ head.norm(h).T for head, h in ((heads[0], base), (heads[1], draws[0]))]
    log_p, log_q = (z.double().log_softmax(0) for z in logits)
    kl = (log_p.exp() * (log_p - log_q)).sum(0).float()
    mine = found.kl_null[0, 1][found.prompt == 1]
    torch.testing.assert_close(mine, kl, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"null": "shuffled"}, "`null` is 'shuffled', expected one of noise, covariance, exchanged"),
        (
            {"null": None},
            "`null` is None, expected one of noise, covariance, exchanged, or several in a list",
        ),
        ({"null": 3}, "`null` is 3, expected one of"),
        ({"null": [["noise"]]}, "`null` is [['noise']], expected one of"),
        ({"null": []}, "`null` is '', expected one of"),
        ({"null": "exchanged", "null_draws": 0}, "`null_draws` is 0, but null='exchanged' asks for draws"),
    ],
)
def test_unusable_nulls_are_refused(settings, words):
    with pytest.raises(InputError) as caught:
        trace(pair(), problems(), **settings)
    assert words in str(caught.value)


def test_one_problem_has_no_other_to_draw_from():
    with pytest.raises(InputError, match="there is one problem alone"):
        trace(pair(), problems()[:1], null="exchanged")
    changes = Changes({(0, TEXT): torch.ones(2, 3)}, {(0, TEXT): ["own", "own"]})
    with pytest.raises(InputError, match="No problem but 'own' has text tokens"):
        changes.others(0, TEXT, "own")
