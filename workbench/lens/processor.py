"""What the processor multiplies natively. No torch."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""What a CPU calls its units that multiply bfloat16, on x86 and on ARM, the fastest first."""


def bfloat16_unit() -> str | None:
    """The CPU's unit that multiplies bfloat16, as Linux calls it; None: none, or not known here."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return next((unit for unit in UNITS if unit in flags), None)
