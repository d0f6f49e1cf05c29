"""Back-off when memory runs out: the same work with fewer prompts, or fewer rows of the vocabulary, at a time.

1. Torch's own error types and texts tell what ran out of memory; any other error passes through untouched.
2. The failed try is let go of, with the frames of its error, which hold its tensors, and a GPU's cached memory is freed.
3. The work is tried with half the size, down to the least. The size that fits is said once and kept.
"""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch

from workbench.errors import InputError
from workbench.stopping import still_wanted

Item = TypeVar("Item")
Result = TypeVar("Result")

# Errors that are no `torch.OutOfMemoryError`: of the CPU's allocator (Linux, Windows), cuBLAS and cuDNN, the driver.
_TEXTS = ("can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED", "error: out of memory")
# By model and kind of work; an entry goes when the model does.
_fits: WeakKeyDictionary[object, dict[str, int]] = WeakKeyDictionary()


class MemoryBackoff(UserWarning):
    """Memory ran out, and less is computed at a time from here on; results differ by rounding at most."""


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def shrink(
    work: Callable[[int], Result],
    size: int,
    *,
    least: int = 1,
    what: str,
    unit: str,
    advice: str,
    raising: type[Exception] = MemoryError,
) -> tuple[Result, int]:
    """``work(size)``, or with the first of its halves that fits in memory; and the size that did.

    Args:
        work: called anew for each try, so it must leave nothing half done.
        size: what to begin with.
        least: where to give up.
        what: the work, in a word, such as ``"tracing"``.
        unit: what sizes count.
        advice: what helps if not even the least fits.
        raising: the error then; it says what was tried.
    """
    tried, failed = [], ""
    while True:
        try:
            result = work(size)
        except Exception as error:
            if not ran_out(error):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        else:
            break
        # Here the error is gone, and with it the frames that held tensors; frames in cycles need the collector.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tried.append(size)
        failed = f"memory ran out in {what} with {', '.join(map(str, tried))} {unit} at a time"
        if size <= least:
            raise raising(f"{failed} ({reason}); {advice}")
        size = max(least, size // 2)
    if tried:
        warnings.warn(f"{failed}; {size} fit, and are kept from here on", MemoryBackoff, stacklevel=2)
    return result, size


def piecewise(
    groups: Iterable[list[Item]], work: Callable[[list[Item], slice], Result], *, model: object, what: str
) -> Iterator[tuple[list[Item], Result]]:
    """Each group with what ``work`` makes of it, in smaller groups where memory runs out.

    Args:
        groups: of prompts that go into one batch (`prompts.batches`).
        work: called with a group and its place among all items; must leave nothing half done.
        model: whose work it is: the size that fits is kept for as long as it lives.
        what: the work, in a word.

    Raises:
        InputError: memory ran out with one prompt alone.
    """
    fits, count_so_far = _fits.setdefault(model, {}), 0
    for group in groups:
        while group:
            still_wanted()
            rest, start, most = group, count_so_far, min(len(group), fits.get(what, len(group)))
            result, count = shrink(
                lambda n, rest=rest, start=start: work(rest[:n], slice(start, start + n)),
                most,
                what=what,
                unit="prompts",
                advice='give shorter prompts or smaller pictures, load_pair(..., dtype="bfloat16") or device_map="auto", or '
                "fewer samples; `workbench doctor --pair NAME` tells what a pair needs",
                raising=InputError,
            )
            if count < most:
                fits[what] = count
            yield group[:count], result
            group, count_so_far = group[count:], count_so_far + count
