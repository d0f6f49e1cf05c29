"""What this machine can do: devices, memory, disk, dtypes and attention kernels, each tried, not guessed.

A dtype works if a small product and an attention in it come out right. Heavy or fragile libraries are
imported inside the checks, so that one of them breaking is a finding of `doctor` and not a crash.
"""

import importlib
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import InputError
from workbench.lens.processor import bfloat16_unit

if TYPE_CHECKING:
    import torch

STATUSES = {"ok": "green", "warn": "yellow", "fail": "red"}
# Largest deviation from float64 accepted of products of 16 terms of size one, by dtype.
DTYPES = {"float64": 1e-12, "float32": 1e-4, "bfloat16": 0.2, "float16": 0.02}
LEAST_MEMORY, LEAST_DISK = 2e9, 1e9  # bytes that a default study wants free
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Check:
    """One finding: ``warn`` means that something optional fails here, ``fail`` that a default study does."""

    check: str
    found: str
    status: str = "ok"
    advice: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(
                f"`status` is {self.status!r}; expected ok, warn or fail: Check('disk', '1 GB', 'ok')"
            )


def devices() -> "list[torch.device]":
    """Every device torch can use: the CPU, CUDA devices, Apple's GPU."""
    import torch

    usable = [torch.device("cpu")]
    usable += [torch.device("cuda", i) for i in range(torch.cuda.device_count()) if torch.cuda.is_available()]
    if torch.backends.mps.is_available():
        usable.append(torch.device("mps"))
    return usable


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> Iterator[Check]:
    """Cores and threads of the CPU, and the accelerators with their memory."""
    import psutil
    import torch

    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    threads = f"{cores} cores, {usable_cores()} usable, {torch.get_num_threads()} torch threads"
    yield Check("device cpu", threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver warns; the row below says so
        usable = devices()
    for device in usable[1:]:
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            yield Check(f"device {device}", f"{name}, {_gb(total)}, {_gb(free)} free", "ok", _fits(free))
        else:
            yield Check(f"device {device}", "Apple GPU, shares the memory below")
    if len(usable) > 1:
        return
    if shutil.which("nvidia-smi"):
        advice = (
            f"install a driver and a torch that match (this torch: CUDA {torch.version.cuda}): pytorch.org"
        )
        yield Check("device cuda", "an NVIDIA driver that torch cannot use", "warn", advice)
    else:
        advice = "not needed by the bundled pair; wanted for pairs of 3 B parameters and more"
        yield Check("device cuda", "none", "ok", advice)


def memory() -> Iterator[Check]:
    """Memory in all and free, a container's limit respected."""
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    try:  # a container's own limit (cgroup v2) may be below what the machine has
        limit = int((CGROUP / "memory.max").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        in_use = int((CGROUP / "memory.current").read_text()) - int(
            statistics["inactive_file"]
        )  # less its cache
        total, free = min(total, limit), min(free, max(limit - in_use, 0))
    except (OSError, ValueError, KeyError):  # no such limit
        pass
    amounts = f"{_gb(total)}, {_gb(free)} free"
    if free < LEAST_MEMORY:
        yield Check(
            "memory", amounts, "warn", f"a study wants {_gb(LEAST_MEMORY)} free: close other programs"
        )
    else:
        yield Check("memory", amounts, "ok", _fits(free))


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _fits(free: float) -> str:
    """Models at two bytes a parameter, two or one at a time, and a fifth of the memory for everything else."""
    return (
        f"a bfloat16 pair of up to about {0.8 * free / 4e9:.1f} B parameters fits "
        f"({0.8 * free / 2e9:.1f} B one model at a time: placement='sequential')"
    )


def disk() -> Iterator[Check]:
    """Free space of the current folder, where runs are written."""
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    amount = f"{_gb(free)} free in {folder}"
    if not os.access(folder, os.W_OK):
        yield Check(
            "disk", f"{folder} is not writable", "warn", "choose another: workbench study --out FOLDER"
        )
    elif free < LEAST_DISK:
        advice = f"a study wants {_gb(LEAST_DISK)} free: make room, or workbench study --out FOLDER"
        yield Check("disk", amount, "warn" if free > LEAST_DISK / 10 else "fail", advice)
    else:
        yield Check("disk", amount)


def dtypes() -> Iterator[Check]:
    """Which dtypes come out right on each device."""
    for device in devices():
        wrong = {name: why for name in DTYPES if (why := _dtype_fails(device, name))}
        works = ", ".join(name for name in DTYPES if name not in wrong)
        if not wrong:
            yield Check(f"dtypes {device}", works)
            continue
        status = "fail" if "float32" in wrong and device.type == "cpu" else "warn"
        reasons = "; ".join(f"{name}: {why}" for name, why in wrong.items())
        advice = f"choose --dtype among {works}" if works else "choose another --device"
        if "float64" in wrong and works:
            advice += "; run workbench conform with --device cpu"
        yield Check(f"dtypes {device}", f"{works or 'none works'} (not {reasons})", status, advice)


def _dtype_fails(device: "torch.device", name: str) -> str:
    """Why a product or an attention in this dtype goes wrong on this device; nothing if they do not."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attention

    exact = torch.linspace(-1, 1, 256, dtype=torch.float64).reshape(1, 1, 16, 16)
    try:
        x = exact.to(device, getattr(torch, name))
        for result, expected in (
            (x @ x, exact @ exact),
            (attention(x, x, x), attention(exact, exact, exact)),
        ):
            error = (result.cpu().double() - expected).abs().max().item()
            if not error <= DTYPES[name]:
                return f"off by {error:.1e}"
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


def bfloat16() -> Iterator[Check]:
    """Whether bfloat16 is worth it on the CPU: by its unit, and by a product of a prompt's size in both dtypes."""
    import torch

    unit, seconds = bfloat16_unit(), dict[str, float]()
    for name in ("float32", "bfloat16"):
        x, weight = (torch.ones(shape, dtype=getattr(torch, name)) for shape in ((128, 576), (576, 1536)))
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            torch.mm(x, weight)
            times.append(time.perf_counter() - begun)
        seconds[name] = min(times)
    ratio = seconds["float32"] / seconds["bfloat16"]
    said = f"products at {ratio:.1f} x the speed of float32's"
    if unit is None:
        yield Check(
            "bfloat16 cpu",
            f"no unit known that multiplies it, {said}",
            "ok",
            "on the CPU it saves memory alone",
        )
    else:
        advice = "--dtype bfloat16: half the memory, faster forwards; `matmul: medium` in a pair's YAML: a faster lens"
        yield Check("bfloat16 cpu", f"multiplied by {unit}, {said}", "ok", advice)


def attention() -> Iterator[Check]:
    """Attention kernels: eager and those of sdpa on each device, and flash_attention_2."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    kernels = {
        "math": SDPBackend.MATH,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
    for device in devices():
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        x, works = torch.ones(1, 2, 16, 64, device=device, dtype=dtype), []
        for name, kernel in kernels.items():
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # torch gives every reason why a kernel is not for this device
                try:
                    with sdpa_kernel([kernel]):
                        scaled_dot_product_attention(x, x, x)
                    works.append(name)
                except RuntimeError:
                    continue
        if works:
            yield Check(f"attention {device}", f"eager, sdpa ({', '.join(works)})")
        else:
            yield Check(f"attention {device}", "eager only", "warn", "load_pair(attn_implementation='eager')")
    yield _flash_attention()


def _flash_attention() -> Check:
    name = "attention flash_attention_2"
    if find_spec("flash_attn") is None:
        return Check(name, "not installed", "ok", "optional, for CUDA: pip install flash-attn")
    try:
        importlib.import_module("flash_attn")
    except Exception as error:  # built for another torch
        advice = "pip install --force-reinstall --no-build-isolation flash-attn, or stay with sdpa"
        return Check(name, f"{type(error).__name__}: {error}", "warn", advice)
    return Check(name, metadata.version("flash_attn"))
