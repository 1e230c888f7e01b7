import json

import numpy as np
from PIL import Image
from run_records import board, write_run, write_sheet

from rtda_jax.report import gallery


def test_runs_called_like_columns_of_the_gallery_replace_none(tmp_path):
    names = ("target", "truth", "prediction", "(target)")
    for i, name in enumerate(names):
        write_run(tmp_path / name, "source_only", i, skill=0.1 + i / 10, colour=100 + i)
        results = tmp_path / name / "results.json"
        record = json.loads(results.read_text())
        record["config"]["optim"]["g_lr"] = 0.1 + i  # another configuration each
        results.write_text(json.dumps(record))
        rng = np.random.default_rng(5)
        image = rng.integers(0, 256, (8, 16, 3), np.uint8)
        write_sheet(tmp_path / name / "evaluate", image=image, truth=90, prediction=100 + i)
    shown, sheets = gallery.galleries(board([tmp_path / name for name in names]))
    assert sheets is None
    columns = shown.columns
    assert [title for title, _ in columns] == ["(target)", "(truth)", *names]
    photo = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(columns[0][1][0], photo)
    assert [int(images[0][0, 0, 0]) for _, images in columns[1:]] == [90, 100, 101, 102, 103]
