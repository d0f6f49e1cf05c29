"""`conform` on recorded cases (parity/) and on damaged copies of them."""

import json
import shutil
from pathlib import Path

import oracle
import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.machine.conform import ConformReport, Deviation, conform
from workbench.models.loading import load_pair

PARITY = Path(__file__).parents[1] / "parity"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A writable copy of the lens case; its checkpoints stay where they are."""
    folder = tmp_path / "case"
    folder.mkdir()
    for name in ("case.json", "inputs.safetensors", "expected.safetensors"):
        shutil.copy(PARITY / "lens" / name, folder / name)
        (folder / name).chmod(0o644)
    for name in ("base", "rlvr"):
        (folder / name).symlink_to(PARITY / "lens" / name)
    return folder


def change(file: Path, **tensors: torch.Tensor) -> None:
    save_file(load_file(file) | tensors, file)


def drop(file: Path, name: str) -> None:
    save_file({key: value for key, value in load_file(file).items() if key != name}, file)


def test_the_recorded_lens_is_met_in_float64():
    report = conform(PARITY / "lens")
    assert [d.quantity for d in report.deviations] == [
        "entropy_base",
        "entropy_rlvr",
        "kl",
        "top1_base",
        "top1_rlvr",
    ]
    assert all(d.within for d in report.deviations)
    assert max(d.absolute for d in report.deviations) < 2e-7
    assert [d.absolute for d in report.deviations[3:]] == [0, 0]
    assert report.exit_code == 0
    assert report.verdict == "all 5 quantities conform (tolerance 1e-06, float64 on cpu)"


def test_in_float32_the_deviations_are_those_of_float32():
    report = conform([PARITY / "lens"], dtype="float32", tolerance=1e-4)
    assert report.exit_code == 0
    assert 1e-8 < max(d.absolute for d in report.deviations) < 1e-4


@pytest.mark.parametrize("kind", ["token_replay", "cross_model"])
def test_the_released_codes_interventions_are_met_in_float64(kind):
    report = conform(PARITY / kind)
    quantities = {d.quantity for d in report.deviations}
    recorded = set(load_file(PARITY / kind / "expected.safetensors"))
    assert quantities == recorded
    assert report.exit_code == 0
    assert next(d for d in report.deviations if d.quantity == "mask").absolute == 0


@pytest.fixture
def recorded(tmp_path: Path):
    """Writes a case of a kind that `parity/` has none of, with what the naive loop makes of it."""

    def write(kind: str, **settings) -> Path:
        folder = tmp_path / kind
        shutil.copytree(PARITY / "token_replay", folder)
        case = json.loads((folder / "case.json").read_text()) | {"kind": kind, **settings}
        (folder / "case.json").unlink()
        (folder / "case.json").write_text(json.dumps(case))
        pair = load_pair(base=folder / "base", rlvr=folder / "rlvr", dtype="float64")
        inputs = load_file(folder / "inputs.safetensors")
        visual = inputs["input_ids"][0] == pair.base.image_token_id
        inputs["pixel_values"] = inputs["pixel_values"].double()
        teacher, learner = (pair.rlvr, pair.base) if kind == "reverse_replay" else (pair.base, pair.rlvr)
        chosen = {
            k: case[k]
            for k in ("tau", "layers", "layer", "iterations", "top_v", "normalize", "alignment")
            if k in case
        }
        x, losses, mask = oracle.naive_replay(learner, teacher, inputs, visual, **chosen, alpha=case["lr"])

        def add(module, args):
            hidden = args[0].clone()
            hidden[0, visual] += x
            return (hidden, *args[1:])

        handle = learner.layers[case.get("layer", 0)].register_forward_pre_hook(add)
        logits = oracle.own_logits(learner.model, inputs)[0, -1]
        handle.remove()
        expected = folder / "expected.safetensors"
        expected.chmod(0o644)
        change(expected, tokens=x, losses=losses, mask=mask, logits_last=logits)
        return folder

    return write


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("reverse_replay", {}),
        ("mid_replay", {"layer": 2}),
        ("mid_replay", {"layer": 3, "alignment": "paper"}),
    ],
)
def test_the_other_kinds_are_met_as_the_naive_loop_records_them(recorded, kind, settings):
    folder = recorded(kind, **settings)
    report = conform(folder)
    assert report.exit_code == 0, str(report)
    assert {"tokens", "losses", "mask", "logits_last"} <= {d.quantity for d in report.deviations}
    shifted = load_file(folder / "expected.safetensors")["tokens"]
    change(folder / "expected.safetensors", tokens=shifted * 1.001)
    assert [d.quantity for d in conform(folder).deviations if not d.within] == ["tokens"]


def test_a_mid_case_may_record_the_masks_of_all_layers(recorded):
    folder = recorded("mid_replay", layer=2)
    masks = load_file(PARITY / "token_replay" / "expected.safetensors")["mask"]
    change(folder / "expected.safetensors", mask=masks)
    assert conform(folder).exit_code == 0


def test_a_case_that_lacks_a_setting_is_refused(recorded):
    folder = recorded("reverse_replay")
    (folder / "case.json").write_text(json.dumps({"kind": "reverse_replay", "tau": 0.4}))
    with pytest.raises(InputError, match=r"case.json lacks 'layers'; copy the recorded case again"):
        conform(folder)


def test_a_deviation_is_found_measured_and_named(case: Path):
    expected = load_file(case / "expected.safetensors")
    kl, top1 = expected["kl"].clone(), expected["top1_rlvr"].clone()
    kl[2, 7] += 0.25
    top1[0, :3] += 1
    change(case / "expected.safetensors", kl=kl, top1_rlvr=top1)
    report = conform([case])
    found = {d.quantity: d for d in report.deviations}
    assert found["kl"].absolute == pytest.approx(0.25, abs=1e-6)
    assert found["kl"].relative >= 0.25 / kl[2, 7].item() * 0.99
    assert found["top1_rlvr"].absolute == 3
    assert found["top1_rlvr"].relative == pytest.approx(3 / top1.numel())
    assert [d.quantity for d in report.deviations if not d.within] == ["kl", "top1_rlvr"]
    assert report.exit_code == 1
    assert report.verdict.startswith(
        "2 of 5 quantities deviate (tolerance 1e-06, float64 on cpu): kl of case"
    )


def test_a_nan_never_conforms(case: Path):
    change(case / "expected.safetensors", kl=torch.full((6, 34), torch.nan, dtype=torch.float64))
    assert conform(case, tolerance=1e9).exit_code == 1


def test_the_report_is_a_table_in_text_and_html():
    report = conform(PARITY / "lens")
    assert list(report.to_dataframe()) == ["case", "quantity", "absolute", "relative", "within"]
    assert "entropy_rlvr" in str(report)
    assert str(report).endswith(report.verdict)
    strange = ConformReport((Deviation("<script>", "kl", 0.0, 0.0, True),), "float64", "cpu", 1e-6)
    assert "<script>" not in strange._repr_html_()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("case.json", r"lacks case.json; a recorded case holds case.json, inputs.safetensors"),
        ("inputs.safetensors", "lacks inputs.safetensors; a recorded case holds"),
        ("base", "lacks base; a recorded case holds"),
    ],
)
def test_a_missing_part_is_named(case: Path, name: str, message: str):
    (case / name).unlink()
    with pytest.raises(InputError, match=message):
        conform(case)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"case.json is not JSON \(.*; copy the recorded case again"),
        ("[]", "case.json has the kind None; expected one of lens, token_replay, mid_replay"),
        (json.dumps({"kind": "telepathy"}), "case.json has the kind 'telepathy'; expected one of lens"),
    ],
)
def test_a_case_without_a_known_kind_is_refused(case: Path, text: str, message: str):
    (case / "case.json").write_text(text)
    with pytest.raises(InputError, match=message):
        conform(case)


def test_a_quantity_that_was_not_recorded_is_named(case: Path):
    drop(case / "expected.safetensors", "entropy_base")
    with pytest.raises(
        InputError, match=r"expected.safetensors' lacks 'entropy_base', it holds \['entropy_rlvr'"
    ):
        conform(case)


def test_a_quantity_of_another_shape_is_named(case: Path):
    change(case / "expected.safetensors", kl=torch.zeros(6, 33))
    with pytest.raises(InputError, match=r"'kl' of shape \(6, 33\), but inputs and models make \(6, 34\)"):
        conform(case)


def test_missing_and_damaged_inputs_are_named(case: Path):
    drop(case / "inputs.safetensors", "input_ids")
    with pytest.raises(InputError, match="`input_ids` is missing"):
        conform(case)
    (case / "inputs.safetensors").write_bytes(b"cut")
    with pytest.raises(
        InputError, match=r"inputs.safetensors' is damaged \(.*; copy the recorded case again"
    ):
        conform(case)


def test_bad_arguments_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"`folders` is empty; name at least one recorded case, `conform\("):
        conform([])
    with pytest.raises(InputError, match=r"`folders`: .*nowhere' is not a folder"):
        conform(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"`tolerance` is -1.0, expected 0 or more"):
        conform(PARITY / "lens", tolerance=-1.0)
    with pytest.raises(InputError, match="`dtype`"):
        conform(PARITY / "lens", dtype="float7")
