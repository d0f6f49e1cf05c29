"""What this machine can do: `doctor`, memory before it is needed (`memory`, `pair_memory`, `prompt_sizes`) and while it is used
(`meter`), the hardware (`hardware`), and whether our numbers are the released code's (`conform`).

    import workbench as wb
    print(wb.doctor())
    wb.conform("tests/parity/lens")

``workbench doctor`` says what is installed, what works here and what would fail; with ``--pair NAME`` what memory a pair needs,
for a picture (``--image 3840x2160``, cut as the pair's own processor is configured), a length (``--tokens``) and a device
(``--device``), from configs alone (`predict_memory`). ``workbench conform tests/parity/*`` checks numerics against outputs
recorded from the released code: lens, learnt tokens, masks, losses, and the logits that follow.

A new case of ``conform`` is a folder like those in ``tests/parity``; a new check of `doctor` a function among its ``CHECKS``.
"""
