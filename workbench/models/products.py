"""Products of float32 in the precision that a pair asks for where exactness is not what counts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workbench.models.pairs import ModelPair


@contextmanager
def products_of(pair: ModelPair) -> Iterator[None]:
    """Products of float32 as ``matmul`` in the pair's preset has them: where it answers, and where translators are fitted."""
    before = torch.get_float32_matmul_precision()
    wanted = None if pair.preset is None else pair.preset.matmul
    torch.set_float32_matmul_precision(wanted or before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
