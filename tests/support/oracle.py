"""Independent, slow and obvious implementations that the library is tested against. Tests only."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def hooked_residuals(model: nn.Module, layers: Iterable[nn.Module], inputs: dict[str, Any]) -> list[Tensor]:
    """What every decoder layer returns, (batch, tokens, hidden) each, through plain PyTorch hooks."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def own_logits(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The model's own logits at every position, (batch, tokens, vocabulary)."""
    with torch.no_grad():
        return model(**inputs).logits


def naive_lens(residuals: Tensor, norm: nn.Module, unembedding: nn.Module) -> Tensor:
    """Log probabilities over the whole vocabulary, (..., vocabulary), of residuals (..., hidden)."""
    with torch.no_grad():
        return unembedding(norm(residuals)).log_softmax(-1)


def entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def naive_replay(learner: Any, teacher: Any, inputs: dict[str, Any], visual: Tensor, **s: Any) -> Any:
    """Activation Replay as METHOD tells it and no better: whole model, whole prompt, whole vocabulary, in every
    iteration.

    `learner` and `teacher` are anatomies; `visual` (T,) bool; settings as in `Replay`; `pictures` (T,) says which image a
    position belongs to, each with a threshold of its own. Returns tokens, losses and masks, or the loss as a function of x
    if `only_loss`.
    """
    start = s.get("layer") or 0
    layers = [start] if s.get("layer") is not None else list(range(s["layers"]))
    with torch.no_grad():
        outputs = hooked_residuals(teacher.model, teacher.layers, {**inputs, "use_cache": False})
        log_p = [teacher.logits(outputs[layer][0]).log_softmax(-1) for layer in layers]
    mask = torch.zeros(len(layers), len(visual), dtype=torch.bool)
    pictures = s.get("pictures", torch.zeros_like(visual, dtype=torch.int))
    for row, lp in enumerate(log_p):
        for picture in pictures[visual].unique():
            here = visual & (pictures == picture)
            e = entropy(lp)[here]
            mask[row, here] = e <= s["tau"] * e.max()
    if s.get("mask") is not None:
        mask = s["mask"]

    def loss_at(x: Tensor) -> Tensor:
        seen: dict[int, Tensor] = {}

        def enter(layer: int) -> Any:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
                hidden = args[0] if args else kwargs["hidden_states"]
                if layer == start:
                    hidden = hidden.clone()
                    hidden[0, visual] = hidden[0, visual] + x
                if s["alignment"] == "released":
                    seen[layer] = hidden
                return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

            return hook

        def leave(layer: int) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if s["alignment"] == "paper":
                    seen[layer] = output

            return hook

        handles = [
            m.register_forward_pre_hook(enter(i), with_kwargs=True) for i, m in enumerate(learner.layers)
        ]
        handles += [m.register_forward_hook(leave(i)) for i, m in enumerate(learner.layers)]
        try:
            learner.model(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        total = x.new_zeros(())
        for row, layer in enumerate(layers):
            if not mask[row].any():
                continue
            top = log_p[row].topk(s["top_v"] or log_p[row].shape[-1], -1).indices
            p = log_p[row].gather(-1, top).log_softmax(-1)
            q = learner.logits(seen[layer][0]).gather(-1, top).log_softmax(-1)
            total = total + kl(p, q)[mask[row]].mean()
        return total / visual.sum() if s["normalize"] else total

    if s.get("only_loss"):
        return loss_at
    x = torch.zeros(int(visual.sum()), learner.hidden_size, dtype=outputs[0].dtype)
    losses = []
    for _ in range(s["iterations"]):
        x.requires_grad_(True)
        loss = loss_at(x)
        (gradient,) = torch.autograd.grad(loss, x)
        losses.append(loss.item())
        x = x.detach() - s["alpha"] * gradient
    return x, torch.tensor(losses, dtype=x.dtype), mask
