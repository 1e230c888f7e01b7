import json

import numpy as np
import pytest
from helpers import config, folder_fields, pixelwise, write_folders
from PIL import Image
from variables import plausible_variables

from rtda_jax.augment import normalise
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import Networks, retrieve
from rtda_jax.errors import ConfigError, DataError
from rtda_jax.evaluate import Model, folded
from rtda_jax.models import create_model
from rtda_jax.tools import drawing


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_neighbours_and_agreement_against_loops():
    rng = np.random.default_rng(0)
    query, gallery = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(9, 5)))
    p, q = rng.dirichlet(np.ones(4), 7), rng.dirichlet(np.ones(4), 9)
    q[3] = np.nan  # a label without a counted pixel
    nearest = retrieve.neighbours(query, gallery, count=3)
    first, every, best, pairs = [], [], [], []
    for i in range(7):
        order = sorted(range(9), key=lambda j: -sum(query[i] * gallery[j]))[:3]
        assert nearest[i].tolist() == order
        alike = {j: sum(min(a, b) for a, b in zip(p[i], q[j], strict=True)) for j in range(9)}
        del alike[3]
        first += [alike[order[0]]] if order[0] in alike else []
        every += [alike[j] for j in order if j in alike]
        best.append(max(alike.values()))
        pairs += alike.values()
    found = retrieve.agreement(p, q, nearest)
    expected = {"first": first, "all": every, "chance": pairs, "best": best}
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values)), name
    assert retrieve.agreement(p, None, nearest) is None


def test_mixing_tells_separate_domains_from_equal_ones():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(60, 3))
    shift = np.array([9, 0, 0])
    apart = retrieve.mixing(unit(a + shift), unit(b - shift), count=5)
    assert apart == {"other_domain": 0.0, "chance": pytest.approx(60 / 99)}
    mixed = retrieve.mixing(unit(a), unit(b), count=5)
    assert mixed["other_domain"] == pytest.approx(mixed["chance"], abs=0.1)


def test_a_histogram_counts_no_ignored_pixel():
    label = np.array([[0, 0, 1], [255, 2, 0]], np.uint8)
    np.testing.assert_allclose(retrieve.histogram(label, classes=4), [0.6, 0.2, 0.2, 0])
    assert np.isnan(retrieve.histogram(np.full((2, 2), 255), classes=4)).all()


def test_a_description_is_the_mean_feature_of_length_one():
    image = np.random.default_rng(2).integers(0, 256, (8, 12, 3), np.uint8)
    how = normalise.NORMALISATIONS["imagenet"]
    mean = ((image - np.array(how.mean)) / np.array(how.std)).mean((0, 1))
    made = retrieve.describer([pixelwise(0)[0], pixelwise(1)[0]])(image)
    expected = np.tile(mean / np.linalg.norm(mean), 2) / np.sqrt(2)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_a_network_is_described_without_its_normalisations(monkeypatch):
    model = create_model("bisenet_resnet18", 5)
    variables = plausible_variables(model)
    image = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    feature = model.apply(variables, normalise.normalise(image[None], name="imagenet"))["feature"]
    mean = np.asarray(feature).mean((0, 1, 2))
    read = []
    monkeypatch.setattr(retrieve, "folded", lambda models: read.extend(folded(models)) or read)
    made = retrieve.describer([Model(model, variables, "imagenet")])(image)
    assert [each.module.batch_norm for each in read] == ["folded"]
    np.testing.assert_allclose(made, mean / np.linalg.norm(mean), atol=1e-5)


@pytest.fixture
def root(tmp_path):
    write_folders(tmp_path)
    return tmp_path


def made(root, **fields):
    found = config("source_only", "folders", **fields)
    found.update_from_flattened_dict(folder_fields(root))
    return found


def chosen(root, config, seed=0):
    models = (pixelwise(seed)[0],)
    return Networks(
        models, ("train",), "evaluate", root / "run", config.lock(), ("bisenet_resnet18",)
    )


def run(root, config):
    return retrieve.run({"after": chosen(root, config)}, out=root / "out")


def test_two_runs_are_compared_on_the_same_images(root, capsys):
    runs = {"before": chosen(root, made(root), seed=1), "after": chosen(root, made(root))}
    record = retrieve.run(runs, out=root / "out")
    assert record == json.loads((root / "out" / "retrieve.json").read_text())
    assert record["images"] == {"source": 4, "target": 4}
    assert record["data"]["source"] == "folders/source/images"
    assert list(record["runs"]) == ["before", "after"]
    for numbers in record["runs"].values():
        for direction in ("source_to_target", "target_to_source"):
            found = numbers[direction]["agreement"]
            assert 0 < found["chance"] < found["best"] <= 1
            assert 0 < found["all"] <= found["best"]
    # The features of pixelwise networks are their input: both runs retrieve the same.
    before, after = (record["runs"][n]["source_to_target"] for n in ("before", "after"))
    assert before == after
    with Image.open(root / "out" / "after_source_to_target.png") as sheet:
        columns = drawing.cells(sheet)
    count = record["neighbours"]
    assert list(columns)[:2] == ["source, the query", "target 1: cosine, name"]
    assert len(columns) == 1 + count
    for column in columns.values():
        assert [image.shape[1] for image in column] == [retrieve.WIDTH] * 4
    assert "after source_to_target" in capsys.readouterr().out


def test_a_sheet_names_the_images_and_shows_their_classes():
    colours = np.asarray(class_set("cityscapes19").colours, np.uint8)
    shares = np.zeros((2, 19))
    shares[0, :3], shares[1] = (0.5, 0.25, 0.25), np.nan
    side = retrieve.Side("source", "streets", {}, shares, [np.zeros((80, 240, 3))] * 2, ["a", "b"])
    bar = retrieve.with_bar(side, 0, colours)[80:]
    assert bar.shape == (retrieve.BAR, retrieve.WIDTH, 3)
    for k, width in enumerate((120, 60, 60)):
        assert (bar[0] == colours[k]).all(-1).sum() == width
    assert (retrieve.with_bar(side, 1, colours)[80:] == 128).all()
    unlabelled = side._replace(histograms=None)
    assert (retrieve.with_bar(unlabelled, 0, colours)[80:] == 128).all()


def test_a_retrieval_without_its_data_leaves_the_earlier_one(root):
    run(root, made(root))
    before = {path.name: path.read_bytes() for path in (root / "out").glob("*.*")}
    config = made(root)
    config.benchmark.source.images = str(root / "nowhere")
    with pytest.raises(DataError, match="nowhere"):
        run(root, config)
    assert {path.name: path.read_bytes() for path in (root / "out").glob("*.*")} == before


def test_files_that_no_retrieval_wrote_are_left_alone(root):
    (root / "out").mkdir()
    (root / "out" / "after_source_to_target.png").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds after_source_to_target\.png, which this job"):
        run(root, made(root))
    names = [p.name for p in (root / "out").iterdir() if p.name != ".lock"]
    assert names == ["after_source_to_target.png"]


def test_without_labels_the_agreement_is_left_out_and_said(root, capsys):
    record = run(root, made(root, benchmark__eval__use="unlabelled"))
    assert record["runs"]["after"]["source_to_target"]["agreement"] is None
    said = capsys.readouterr().out
    assert "has no labels" in said
    assert "n/a" not in said and "chance   best" not in said and "mean of" not in said


def test_a_table_has_the_columns_that_were_measured():
    alike = {"first": 0.5, "all": 0.25, "chance": 0.125, "best": 1.0}
    numbers = {
        "source_to_target": {"agreement": alike, "mixing": {"other_domain": 0.1, "chance": 0.2}},
        "target_to_source": {"agreement": alike, "mixing": {"other_domain": 1.0, "chance": 1.0}},
    }
    record = {"neighbours": 5, "labelled": True, "runs": {"after": numbers}}
    head, row, alone = retrieve._table(record)
    assert head == f"{'%':<26}   first  mean of 5  chance    best   other domain (chance)"
    assert row == f"{'after source_to_target':<26}    50.0       25.0    12.5   100.0   10.0 (20.0)"
    assert alone.endswith("100.0   n/a")
    head, row, _ = retrieve._table({**record, "neighbours": 1})
    assert head == f"{'%':<26}   first  chance    best   other domain (chance)"
    assert row.split()[2:] == ["50.0", "12.5", "100.0", "10.0", "(20.0)"]


def test_a_target_without_evaluation_images_is_searched_in_its_training_images(root):
    config = made(root)
    config.benchmark.eval.images = ""
    assert run(root, config)["images"]["target"] == 4


def test_large_sets_are_thinned_evenly(root, monkeypatch):
    monkeypatch.setattr(retrieve, "IMAGES", 3)
    record = run(root, made(root))
    assert record["images"] == {"source": 2, "target": 2}
    assert record["neighbours"] == 2


def test_runs_of_different_sizes_are_refused(root):
    other = made(root, benchmark__eval_size=(64, 64))
    runs = {"before": chosen(root, other), "after": chosen(root, made(root))}
    with pytest.raises(ConfigError, match="different sizes"):
        retrieve.run(runs, out=root / "out")
