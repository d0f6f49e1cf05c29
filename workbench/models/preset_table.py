"""Presets as a table for the terminal."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from workbench.models.presets import ROLES, PairPreset

if TYPE_CHECKING:
    from rich.table import Table


def preset_table(presets: Iterable[PairPreset]) -> "Table":
    """Presets as a table for the terminal, with which of the two models lie on this machine.

    On 80 columns the package's names and hub ids stand whole on a line.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 1, 0))
    table.caption = (
        "disk: which of the two models lie on this machine; the others are fetched when first loaded"
    )
    table.caption_justify = "left"
    table.add_column("name", no_wrap=True)
    presets = list(presets)
    longest = max((len(preset.id_of(role)) for preset in presets for role in ROLES), default=0)
    table.add_column("base, RLVR", overflow="fold", no_wrap=longest <= 42)
    table.add_column("disk", no_wrap=True)
    table.add_column("settings", max_width=23)
    for preset in presets:
        replay = {"layers": "16 of 28", "tau": 0.4, "alpha": 10.0, **preset.replay}
        budgets = {"image": preset.image_pixels, "frame": preset.frame_pixels}
        lines = [f"K {replay['layers']}, tau {replay['tau']}, alpha {replay['alpha']:g}"]
        lines += [f"{what} {b[0]} to {b[1]}" for what, b in budgets.items() if b]
        lines += ["patches of their own"] * bool(preset.patch)
        lines += [f"needs: pip install {needs}"] if (needs := preset.needs("base")) else []
        here = [{"base": "base", "rlvr": "RLVR"}[role] for role in ROLES if preset.found(role)]
        sizes = [
            sum(f.stat().st_size for f in home.glob("*.safetensors"))
            for role in ROLES
            if (home := preset.found(role))
        ]
        lines += [f"{sum(sizes) / 1e6:,.0f} MB on disk"] * bool(sizes)
        lines += [f"seeds {', '.join(map(str, (0, *preset.seeds)))}"] if preset.seeds else []
        lines += [additions] if (additions := ", ".join(preset.in_words()).replace("_", " ")) else []
        table.add_row(
            preset.name,
            "\n".join(preset.id_of(role) for role in ROLES),
            "both" if len(here) == 2 else "".join(here) or "none",
            "\n".join(lines),
        )
    return table
