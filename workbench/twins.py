"""A second module over a model's own weights, for what would change the first: another attention kernel, rewritten layers."""

from copy import deepcopy
from typing import Any

import torch


def sharing(model: Any) -> Any:
    """A second module of the model's class over the same parameters and buffers, in eval mode.

    Built from the config and not copied: a copy would keep what nnsight has put on the modules.
    """
    with torch.device("meta"):
        twin = type(model)(deepcopy(model.config))
    for name, module in twin.named_modules():
        source = model.get_submodule(name)
        module._parameters.update(source._parameters)
        module._buffers.update(source._buffers)
    return twin.eval()
