"""Makes a torchvision that was built for another torch importable, by declaring the operators that it then lacks.

torchvision of the package index is built beside CUDA's torch. Beside a CPU build its compiled operators can't be loaded, and its
import fails where it describes two of them; nothing that the processors use is compiled. Changes the installed file.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

_DECLARED = """
if not _has_ops():
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    importing = [sys.executable, "-c", "import torchvision"]
    if subprocess.run(importing, capture_output=True).returncode == 0:
        return
    spec = find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).with_name("extension.py")
    file.write_text(file.read_text("utf-8") + _DECLARED, "utf-8")
    subprocess.run(importing, check=True)


if __name__ == "__main__":
    main()
