"""Doctor: it runs here without a network, and every status of every check says what to do."""

import collections
import hashlib
import importlib
import io
import json
import socket
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import rich
import torch
from rich.console import Console
from safetensors.numpy import save_file

from workbench.errors import InputError
from workbench.lens import processor
from workbench.machine import doctor as doctor_module
from workbench.machine import hardware as machine
from workbench.machine.doctor import Check, DoctorReport, doctor


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A stand-in for the bundled pair's folder."""
    for side in ("base", "rlvr"):
        (tmp_path / side).mkdir()
        save_file({"w": np.ones((3, 5), np.float32)}, tmp_path / side / "model.safetensors")
        (tmp_path / side / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(doctor_module, "WEIGHTS", tmp_path)
    return tmp_path


def named(checks):
    """The rows by name."""
    return {row.check: row for row in checks}


def test_runs_here_without_a_network(weights, monkeypatch):
    def refuse(*_):
        raise AssertionError("doctor used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    report = doctor()
    assert [row for row in report.rows if row.status == "fail"] == []
    assert report.exit_code == 0
    assert "`workbench study` runs here" in repr(report)
    rows = named(report.rows)
    assert len(rows) == len(report.rows)
    for name in (
        "python",
        "torch",
        "imports",
        "device cpu",
        "memory",
        "disk",
        "attention cpu",
        "PNG export",
        "network",
    ):
        assert rows[name].found
    assert {"float64", "float32"} <= set(rows["dtypes cpu"].found.split(", "))
    assert rows["bundled pair, base"].found == "qwen2_5_vl, 0.00 M parameters"
    assert rows["network"].found.startswith("not needed")


def test_report_shows_itself_as_text_table_and_frame():
    rows = (
        Check("a", "1"),
        Check("b", "<script>", "warn", 'pip install "x[train]"'),
        Check("c", "3", "fail", "mend"),
    )
    report = DoctorReport(rows)
    assert report.exit_code == 1
    assert DoctorReport(rows[:2]).exit_code == 0
    expected = "`workbench study` would fail here: 1 ok, 1 warn, 1 fail"
    assert repr(report) == f"DoctorReport({expected})"
    frame = report.to_dataframe()
    assert list(frame.columns) == ["check", "found", "status", "advice"]
    assert frame.status.tolist() == ["ok", "warn", "fail"]
    shown = io.StringIO()
    rich.print(report, file=shown)
    wide = Console(file=io.StringIO(), width=120)
    wide.print(report)
    assert 'pip install "x[train]"' in wide.file.getvalue()  # brackets are not markup
    assert "would fail here" in " ".join(shown.getvalue().split())
    assert "<script>" not in report._repr_html_()
    assert "&lt;script&gt;" in report._repr_html_()
    with pytest.raises(InputError, match="`status` is 'good'; expected ok, warn or fail"):
        Check("a", "1", "good")


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def _broken_check():
        yield Check("first", "fine")
        raise OSError("no such device")

    monkeypatch.setattr(doctor_module, "CHECKS", (_broken_check,))
    first, broken = doctor().rows
    assert (first.check, first.status) == ("first", "ok")
    assert (broken.check, broken.found, broken.status) == ("broken check", "OSError: no such device", "fail")


# --- versions


@pytest.fixture
def installed(monkeypatch):
    """Versions to report instead of the real ones; None = not installed."""
    versions, real = {}, metadata.version

    def version(name):
        if versions.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    return versions


def test_versions(installed):
    installed |= {"torch": "1.13.0", "nnsight": None, "plotly": "99.0", "trl": None, "kaleido": "0.2.1"}
    rows = named(doctor_module._versions())
    assert (rows["torch"].status, rows["torch"].found) == ("fail", "1.13.0, outside >=2.9")
    assert rows["torch"].advice == 'pip install "torch>=2.9"'
    assert (rows["nnsight"].status, rows["nnsight"].found) == ("fail", "missing")
    assert rows["plotly"].status == "ok"
    assert rows["extra train"].status == "warn"
    assert "trl missing" in rows["extra train"].found
    assert rows["extra train"].advice.startswith("for training the bundled pair")
    assert rows["extra export"].advice == 'for PNG files of the figures: pip install "kaleido>=1.0"'


def test_complete_extra_and_old_python(installed, monkeypatch):
    installed["kaleido"] = "1.2"
    monkeypatch.setattr(doctor_module.platform, "python_version", lambda: "3.9.1")
    rows = named(doctor_module._versions())
    assert rows["extra export"] == Check("extra export", "complete")
    assert rows["python"].status == "fail"
    assert rows["python"].advice == "create an environment with Python >=3.11"


DESCRIBED = """\
Metadata-Version: 2.4
Name: replay-workbench
Version: 3.2
Requires-Python: >=3.11
Provides-Extra: export
Provides-Extra: dev
Requires-Dist: numpy>=2.1
Requires-Dist: ancient; python_version < "3"
Requires-Dist: kaleido>=1.0; extra == "export"
Requires-Dist: replay-workbench[export]; extra == "dev"
Requires-Dist: pytest>=8.4; extra == "dev"
"""


def test_requirements_of_an_installed_package_and_of_a_source_tree(tmp_path, monkeypatch):
    info = tmp_path / "replay_workbench-3.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(DESCRIBED)
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        _, needed = doctor_module._requirements()
        assert {extra: [r.name for r in lines] for extra, lines in needed.items()} == {
            "": ["numpy"],
            "export": ["kaleido"],
            "dev": ["pytest"],
        }
        assert named(doctor_module._versions())["replay-workbench"] == Check("replay-workbench", "3.2")

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    _, needed = doctor_module._requirements()
    assert {"torch", "transformers", "nnsight"} <= {r.name for r in needed[""]}
    assert {"notebooks", "export", "train", "dev"} <= set(needed)


def test_source_tree_only(installed):
    installed["replay-workbench"] = None
    row = named(doctor_module._versions())["replay-workbench"]
    assert row.status == "warn"
    assert "pip install -e ." in row.advice


def test_broken_binaries(monkeypatch):
    real = importlib.import_module

    def import_module(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        if name == "nnsight":
            raise ImportError("no nnsight")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    rows = named(doctor_module._imports())
    assert list(rows) == ["import torchvision", "import nnsight"]
    assert rows["import torchvision"].advice.endswith("pip install --upgrade torch torchvision")
    assert rows["import nnsight"] == Check(
        "import nnsight", "ImportError: no nnsight", "fail", "pip install --force-reinstall nnsight"
    )


# --- machine


def test_accelerators(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    cpu = [torch.device("cpu")]
    monkeypatch.setattr(machine, "devices", lambda: cpu)
    assert named(machine.hardware())["device cuda"].found == "none"
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    row = named(machine.hardware())["device cuda"]
    assert (row.found, row.status) == ("an NVIDIA driver that torch cannot use", "warn")
    monkeypatch.setattr(machine, "devices", lambda: [*cpu, torch.device("cuda", 0), torch.device("mps")])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40e9, 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    rows = named(machine.hardware())
    assert rows["device cuda:0"].found == "NVIDIA H100, 80.0 GB, 40.0 GB free"
    assert rows["device cuda:0"].advice.startswith(
        "a bfloat16 pair of up to about 8.0 B parameters fits (16.0 B one model"
    )
    assert "Apple GPU" in rows["device mps"].found


def test_devices_are_those_torch_reports(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [str(device) for device in machine.devices()] == ["cpu", "cuda:0", "cuda:1", "mps"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [str(device) for device in machine.devices()] == ["cpu", "mps"]


def test_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64e9, available=20e9))
    (row,) = machine.memory()
    assert (row.found, row.status) == ("64.0 GB, 20.0 GB free", "ok")
    assert row.advice.startswith("a bfloat16 pair of up to about 4.0 B parameters fits (8.0 B one model")
    (tmp_path / "memory.max").write_text("8000000000\n")
    (tmp_path / "memory.current").write_text("7500000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    (row,) = machine.memory()
    assert (row.found, row.status) == ("8.0 GB, 1.0 GB free", "warn")
    (tmp_path / "memory.max").write_text("max\n")
    (row,) = machine.memory()
    assert row.found == "64.0 GB, 20.0 GB free"


@pytest.mark.parametrize(("free", "status"), [(50e9, "ok"), (5e8, "warn"), (5e7, "fail")])
def test_disk(monkeypatch, free, status):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(0, 0, free))
    (row,) = machine.disk()
    assert row.status == status
    assert ("make room" in row.advice) == (status != "ok")


def test_read_only_folder(monkeypatch):
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    (row,) = machine.disk()
    assert (row.status, row.advice) == ("warn", "choose another: workbench study --out FOLDER")


@pytest.mark.parametrize(
    ("device", "broken", "status", "advice"),
    [
        (
            "mps",
            {"float64"},
            "warn",
            "choose --dtype among float32, bfloat16, float16; run workbench conform with --device cpu",
        ),
        ("cpu", {"float32"}, "fail", "choose --dtype among float64, bfloat16, float16"),
        ("cpu", {"float16"}, "warn", "choose --dtype among float64, float32, bfloat16"),
        ("cuda", set(machine.DTYPES), "warn", "choose another --device"),
        ("cpu", set(), "ok", ""),
    ],
)
def test_dtypes(monkeypatch, device, broken, status, advice):
    monkeypatch.setattr(machine, "devices", lambda: [torch.device(device)])
    monkeypatch.setattr(machine, "_dtype_fails", lambda _, name: "no such kernel" if name in broken else "")
    (row,) = machine.dtypes()
    assert (row.check, row.status, row.advice) == (f"dtypes {device}", status, advice)
    assert ("no such kernel" in row.found) == bool(broken)


def test_a_dtype_is_tried_not_believed(monkeypatch):
    cpu = torch.device("cpu")
    assert machine._dtype_fails(cpu, "float32") == ""
    # A device that does not exist here, and a kernel that computes something else.
    assert machine._dtype_fails(torch.device("cuda", 99), "float32") != ""
    with monkeypatch.context() as patched:
        attention = torch.nn.functional.scaled_dot_product_attention
        wrong = lambda q, k, v: attention(q, k, v) * (1 if q.dtype is torch.float64 else 1.01)  # noqa: E731
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong)
        assert machine._dtype_fails(cpu, "float32").startswith("off by ")


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile", "amx_bf16"),
        ("flags\t\t: fpu avx512f avx512_bf16", "avx512_bf16"),
        ("Features\t: fp asimd bf16", "bf16"),
        ("flags\t\t: fpu avx2\nmodel name\t: avx512_bf16", None),
        (None, None),
    ],
)
def test_bfloat16_is_known_by_the_cpus_own_list(tmp_path, monkeypatch, words, unit):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    if words is not None:
        (tmp_path / "cpuinfo").write_text(words)
    assert processor.bfloat16_unit() == unit
    (row,) = machine.bfloat16()
    assert row.status == "ok"
    assert (f"multiplied by {unit}" if unit else "no unit known") in row.found
    assert " x the speed of float32's" in row.found


def test_attention_kernels(monkeypatch):
    assert named(machine.attention())["attention cpu"].found.startswith("eager, sdpa (math")

    def refuse(*_):
        raise RuntimeError("no available kernel")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    row = named(machine.attention())["attention cpu"]
    assert (row.found, row.status, row.advice) == (
        "eager only",
        "warn",
        "load_pair(attn_implementation='eager')",
    )


def test_flash_attention(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol')")
    row = machine._flash_attention()
    assert (row.found, row.status) == ("ImportError: undefined symbol", "warn")
    (tmp_path / "flash_attn.py").write_text("works = True")
    importlib.invalidate_caches()
    monkeypatch.setattr(machine.metadata, "version", lambda _: "2.8.3")
    assert machine._flash_attention() == Check("attention flash_attention_2", "2.8.3")
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    assert machine._flash_attention().found == "not installed"


# --- browser, bundled pair, network


def test_png_export(tmp_path, monkeypatch):
    chromium = pytest.importorskip("choreographer.browsers.chromium").Chromium
    chrome = tmp_path / "chrome"
    chrome.write_text("#!/bin/sh\necho Chromium 140.0\n")
    chrome.chmod(0o755)
    monkeypatch.setattr(chromium, "find_browser", lambda **_: str(chrome))
    (row,) = doctor_module._png_export()
    assert row == Check("PNG export", f"Chromium 140.0 at {chrome}")
    chrome.write_text("#!/bin/sh\nexit 3\n")
    (row,) = doctor_module._png_export()
    assert (row.found, row.status) == (f"{chrome} does not start (CalledProcessError)", "warn")
    monkeypatch.setattr(chromium, "find_browser", lambda **_: None)
    (row,) = doctor_module._png_export()
    assert (row.found, row.status) == ("no Chrome or Chromium", "warn")
    monkeypatch.setattr(doctor_module, "find_spec", lambda _: None)
    (row,) = doctor_module._png_export()
    assert (row.found, row.status) == ("kaleido is missing", "warn")
    assert row.advice == 'figures are written as HTML only; for PNG: pip install "kaleido>=1"'


def test_bundled_pair_with_digests(weights):
    digest = hashlib.sha256((weights / "rlvr" / "model.safetensors").read_bytes()).hexdigest()
    (weights / "README.md").write_text(f"# Card\n\n| `rlvr/model.safetensors` | `{digest}` |\n")
    base, rlvr = doctor_module._bundled_pair()
    assert (base.status, rlvr.status) == ("ok", "ok")
    assert rlvr.found == "qwen2_5_vl, 0.00 M parameters, digests as published"
    (weights / "SHA256SUMS").write_text(f"{'0' * 64}  base/model.safetensors\n{'0' * 64}  rlvr/gone.json\n")
    base, rlvr = doctor_module._bundled_pair()
    assert (base.found, base.status) == ("not the published base/model.safetensors", "fail")
    assert (rlvr.found, rlvr.status) == ("not the published rlvr/gone.json", "fail")


def test_bundled_pair_missing_or_truncated(weights):
    (weights / "base" / "tokenizer.json").unlink()
    (weights / "rlvr" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    base, rlvr = doctor_module._bundled_pair()
    assert (base.found, base.status) == ("missing tokenizer.json", "fail")
    assert rlvr.status == "fail"
    assert rlvr.found.startswith("unreadable (SafetensorError")
    assert "install the package again" in rlvr.advice


def test_offline_is_said(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (row,) = doctor_module._network()
    assert "only hub ids" in row.advice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (row,) = doctor_module._network()
    assert row.advice == "HF_HUB_OFFLINE is set: hub ids work only if they are in the local cache"
