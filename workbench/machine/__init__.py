"""What this machine can do: `doctor`, memory before it is needed (`memory`, `pair_memory`, `prompt_sizes`) and while it is used
(`meter`), the hardware (`hardware`), and whether our numbers are the released code's (`conform`).

    import workbench as wb
    wb.conform("tests/parity/lens")
"""
