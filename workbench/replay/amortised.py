"""Amortised replay: the tokens of replay predicted in one pass, by an adapter that was trained once for a pair.

`predict_tokens` runs both models up to their first layer, and the adapter on what they give there; how one is trained is
in ``adapter_training``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.backoff import piecewise
from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.anatomy import Anatomy
from workbench.models.batches import Cells, batches, collate
from workbench.models.pairs import ModelPair, batch_of, weights_of
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem, listed
from workbench.replay.adapters import Adapter, check_pair, token_inputs
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.replay import learn_many, objective
from workbench.tracing.residuals import read_calls


def predict_tokens(pair: ModelPair, prompt: Problem | EncodedPrompt, adapter: Adapter) -> LearnedTokens:
    """One prompt's tokens; see `predict_many`."""
    return predict_many(pair, [prompt], adapter)[0]


def predict_many(
    pair: ModelPair,
    prompts: Sequence[Problem | EncodedPrompt],
    adapter: Adapter,
    *,
    batch_size: int | None = None,
) -> list[LearnedTokens]:
    """What `learn_many` learns, predicted: no target is taken and no loss is computed, so ``losses`` and ``mask`` are empty.

    Raises:
        InputError: a prompt without visual tokens, or a pair that the adapter was not fitted to.
    """
    batch_size = batch_of(pair, batch_size)
    if not isinstance(adapter, Adapter):
        raise InputError(
            f"`adapter` is a {type(adapter).__name__}; expected an Adapter: predict_tokens(pair, prompt, load_adapter('shapes'))"
        )
    check_pair(adapter, weights_of(pair))
    prompts = [pair.encode(prompt) for prompt in prompts]
    loss_layers = adapter.replay.loss_layers(pair.depth)
    provenance = {**pair.provenance, "adapter": adapter.digest}
    results = []
    for prompt, inputs in zip(prompts, embeddings(pair, prompts, batch_size=batch_size), strict=True):
        visual = prompt.kinds == TokenKind.VISUAL
        results.append(
            LearnedTokens(
                problem_id=prompt.problem_id,
                tokens=adapter(inputs),
                losses=inputs.new_zeros(0),
                mask=torch.zeros(len(loss_layers), len(prompt), dtype=torch.bool),
                loss_layers=loss_layers,
                places=visual,
                grid=prompt.grid[visual].clone(),
                replay=adapter.replay,
                stopped=None,
                provenance=provenance,
            )
        )
    return results


def embeddings(
    pair: ModelPair, prompts: Sequence[EncodedPrompt], *, batch_size: int = 8
) -> list[Float[Tensor, "visual inputs"]]:
    """What an adapter reads of each prompt: `token_inputs` of both models' first layer, on the CPU.

    Raises:
        InputError: a prompt without visual tokens.
    """
    call = "predict_tokens(pair, pair.encode(problem), load_adapter('shapes'))"
    for prompt in listed(prompts, call, EncodedPrompt, name="prompts"):
        if not (prompt.kinds == TokenKind.VISUAL).any():
            raise InputError(
                f"`prompts`: {prompt.problem_id!r} has no visual tokens to predict anything for; leave it out"
            )

    def read(batch: Sequence[EncodedPrompt], _: slice) -> list[Tensor]:
        base, rlvr = (_pictures(anatomy, batch, pair.pad_id) for anatomy in (pair.base, pair.rlvr))
        return [token_inputs(b, r, _places(p)) for b, r, p in zip(base, rlvr, batch, strict=True)]

    groups = batches(prompts, batch_size)
    return [x for _, xs in piecewise(groups, read, model=pair.base, what="reading embeddings") for x in xs]


def losses_beside(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    replay: Replay,
    adapters: Mapping[str, Adapter],
    *,
    iterations: int = 200,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Replay's loss of each prompt along ``iterations`` of its optimisation, and with what adapters predict.

    Columns: name (``"optimised"``, an adapter's, or ``"base's embeddings"``, the RLVR model's replaced by them: what nobody needs
    to train), iteration (0: before any; 0 for the others), problem, loss in nats. Where the optimisation diverged it keeps no
    tokens, so that its first loss stands.
    """
    rows = []
    for learned in learn_many(pair, prompts, replace(replay, iterations=iterations), batch_size=batch_size):
        path = [*learned.losses.tolist(), *learned.losses[:1].tolist() * iterations][:iterations]
        rows += [("optimised", step, learned.problem_id, loss) for step, loss in enumerate(path)]
    all_inputs, width = embeddings(pair, prompts, batch_size=batch_size), pair.base.hidden_size
    predictions = {"base's embeddings": [-inputs[:, width : 2 * width] for inputs in all_inputs]}
    for name, adapter in adapters.items():
        check_pair(adapter, weights_of(pair))
        predictions[name] = [adapter(inputs) for inputs in all_inputs]
    for name, tokens in predictions.items():
        losses = objective(pair, prompts, replay, tokens, batch_size=batch_size).tolist()
        rows += [(name, 0, p.problem_id, loss) for p, loss in zip(prompts, losses, strict=True)]
    return pd.DataFrame(rows, columns=["name", "iteration", "problem", "loss"])


def _pictures(
    anatomy: Anatomy, batch: Sequence[EncodedPrompt], pad_id: int
) -> tuple[Float[Tensor, "visual hidden"], ...]:
    """What the first layer receives at each prompt's visual positions."""
    cells = Cells.of(batch, anatomy.device)
    hidden = cells.take(read_calls(anatomy, collate(batch, pad_id), 1)[0].hidden).cpu()
    return (hidden if hidden.dtype == torch.float64 else hidden.float()).split(cells.counts)


def _places(prompt: EncodedPrompt) -> Float[Tensor, "visual 3"]:
    """(t, row, column) of each visual token as shares of its view's; 0 where it has no place."""
    visual = prompt.kinds == TokenKind.VISUAL
    sizes = torch.tensor(prompt.grids)[prompt.visual_index[visual].long()]
    return prompt.grid[visual].clamp_min(0).float() / sizes
