"""The accelerator benchmark runs at toy size without TensorFlow; its page says what is missing."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks.gpu import plan, table, trace
from benchmarks.gpu.record import Record

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Python runs it at its start; the packages look as if they were not installed.
WITHOUT_TENSORFLOW = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def hidden(name, path=None, target=None):
    absent = name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "array_record")
    return None if absent else find(name, path, target)
importlib.machinery.PathFinder.find_spec = hidden
"""


@pytest.mark.slow
def test_the_script_runs_at_toy_size_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "out"
    script = ROOT / "benchmarks" / "gpu.sh"
    words = (str(out), "--toy", "--budget", "900", "--limit", "300")
    done = subprocess.run([script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = json.loads((out / "gpu.json").read_text())
    wanted = plan.first([plan.MAIN]) + plan.then([plan.MAIN])
    assert set(report["sections"]) == {section.name for section in wanted}
    for name, section in report["sections"].items():
        assert section["status"] == "ok", name
    checks = report["sections"]["correctness"]["parts"]
    assert all(part["ok"] for part in checks.values() if "ok" in part)
    page = (out / "gpu.md").read_text()
    assert page.count("not measured") < 20
    assert "| with gradient" not in page
    assert (out / "step.hlo.gz").exists()


def test_a_part_that_fails_leaves_the_others(tmp_path):
    record = Record(tmp_path / "r.json", deadline=float("inf"))
    record.run("broken", lambda: 1 / 0)
    record.run("whole", lambda: {"ms": 1.0})
    parts = json.loads((tmp_path / "r.json").read_text())
    assert parts["broken"]["error"].startswith("ZeroDivisionError")
    assert parts["whole"]["ms"] == 1.0
    late = Record(tmp_path / "late.json", deadline=0.0)
    assert late.run("late", lambda: {"ms": 1.0}) is None
    assert "skipped" in json.loads((tmp_path / "late.json").read_text())["late"]


def test_the_page_can_be_written_of_nothing():
    machine = {"gpu": None, "commit": None, "cores": 2, "python": "3"}
    failed = {"status": "parts failed", "failed_parts": ["train"], "log": ""}
    failed["parts"] = {"train": {"error": "Boom: a | b"}}
    report = {"machine": machine, "sizes": "full", "sections": {f"ours {plan.MAIN}": failed}}
    page = table.markdown(report)
    assert "| parts failed | train: Boom: a / b |" in page
    assert "not measured" in page


HLO = """
  %cudnn-conv.1 = (bf16[8,64,128,64]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(step)/conv_general_dilated"}
  ROOT %loop_fusion.2 = f32[8,2]{1,0} fusion(%c), metadata={op_name="jit(step)/bn1/mul"}
"""


def test_the_account_names_convolutions_and_kernels(tmp_path):
    found = trace.instructions(HLO)
    assert trace.convolutions(found) == {"__cudnn$convForward bf16 b01f_o01i->b01f": 1}
    rows = [("loop_fusion_2", "", 2e6), ("sm90_xmma_fprop", "cudnn-conv.1", 3e6)]
    shares = trace.shares(rows, found, tmp_path)
    expected = {"batch normalisation": 2 / trace.STEPS, "convolution": 3 / trace.STEPS}
    assert shares["ms_by_category"] == pytest.approx(expected)
    assert trace.category("input_transpose_fusion_3", "x") == "layout: transposes and copies"
    assert trace.category("void vector_fft<1>", "") == "Fourier transform"
