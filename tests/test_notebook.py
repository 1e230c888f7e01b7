import os
import pathlib
import tempfile

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "walkthrough.ipynb"


def _shown(cells):
    """Returns the number of pictures, and of which networks the scores are."""
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    lines = "".join(output.get("text", "") for output in outputs).splitlines()
    return pictures, [line.partition(":")[0] for line in lines if "mIoU" in line]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own machinery
def test_the_walkthrough_runs_from_any_folder_and_is_kept_with_its_outputs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    kept = _shown(code)
    assert kept[0] == 4
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
    assert _shown(code) == kept
