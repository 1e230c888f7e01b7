import os
import pathlib
import tempfile

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "walkthrough.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own machinery
def test_the_walkthrough_runs_from_any_folder_and_is_kept_without_outputs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    cache = pathlib.Path(tempfile.gettempdir())
    environment = {
        **os.environ,
        "PYTHONPATH": str(NOTEBOOK.parents[1]),
        "RTDA_JAX_DATA": os.environ.get("RTDA_JAX_DATA") or str(cache / "rtda_jax_test_data"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "rtda_jax_test_cache"),
        "JAX_PLATFORMS": "cpu",
        "IPYTHONDIR": str(tmp_path),
    }
    monkeypatch.chdir(tmp_path)
    client = nbclient.NotebookClient(notebook, timeout=600)
    client.execute(env=environment, cwd=str(tmp_path))
    shown = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 4
    assert any("mIoU" in output.get("text", "") for output in shown)
