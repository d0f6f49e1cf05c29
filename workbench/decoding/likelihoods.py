"""How probable a model finds a given response: teacher-forced nats per token; their exponential is its perplexity."""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from workbench.models.anatomy import Anatomy
from workbench.models.batches import collate
from workbench.models.finite import naming
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.edits import Intervention, batch_edits
from workbench.tracing.residuals import read_logits


def response_ids(pair: ModelPair, text: str) -> Int[Tensor, " tokens"]:
    """Token ids of a response, as it follows a prompt; without the token that ends it.

    Raises:
        InputError: no tokenizer, or a response without tokens.
    """
    return pair.ids_of(text)


def response_nats(
    anatomy: Anatomy,
    prompts: Sequence[EncodedPrompt],
    responses: Sequence[Int[Tensor, " tokens"]],
    *,
    pad_id: int,
    interventions: Sequence[Intervention | None] | None = None,
) -> list[float]:
    """Mean of ``-log p`` over the tokens of each response, given its prompt and the tokens before; in nats.

    The arguments are those of `response_scores`.
    """
    scores = response_scores(anatomy, prompts, responses, pad_id=pad_id, interventions=interventions)
    return [-log_p / len(ids) for (log_p, _), ids in zip(scores, responses, strict=True)]


def response_scores(
    anatomy: Anatomy,
    prompts: Sequence[EncodedPrompt],
    responses: Sequence[Int[Tensor, " tokens"]],
    *,
    pad_id: int,
    interventions: Sequence[Intervention | None] | None = None,
) -> list[tuple[float, bool]]:
    """Sum of ``log p`` in nats over the tokens of each response, and whether each of them is the most probable there.

    Args:
        anatomy: the model.
        prompts: prompts that go into one batch.
        responses: token ids, one response for each prompt.
        pad_id: as `ModelPair.pad_id`.
        interventions: for each prompt what is written at its layers' inputs; None for none.

    Raises:
        NotFiniteError: NaN or infinity on the way.
    """
    rows = [prompt.continued(ids) for prompt, ids in zip(prompts, responses, strict=True)]
    edits = [None] * len(rows) if interventions is None else interventions
    longest = max(len(ids) for ids in responses)
    with naming([prompt.problem_id for prompt in prompts]):
        logits = read_logits(anatomy, collate(rows, pad_id), last=longest + 1, write=batch_edits(rows, edits))
    scores = []
    for row, ids in zip(logits, responses, strict=True):
        # One row at a time: float32 log probabilities of a whole batch would be the largest tensor around.
        log_p = row[-len(ids) - 1 : -1].float().log_softmax(-1)
        tokens = ids.to(log_p.device)
        total = log_p.gather(1, tokens[:, None]).sum().item()
        scores.append((total, bool((log_p.argmax(-1) == tokens).all())))
    return scores
