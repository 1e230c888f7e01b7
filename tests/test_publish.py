import hashlib
import http.server
import io
import pathlib
import shutil
import threading

import jax
import numpy as np
import pytest
from fake_hub import FakeHub
from helpers import config, write_workdir
from PIL import Image

from rtda_jax import evaluate, experiment
from rtda_jax.cli import JOBS, main
from rtda_jax.data.builders import rendered
from rtda_jax.data.class_sets import IGNORE, TRAIN_IDS
from rtda_jax.deploy import networks, predict, publish
from rtda_jax.errors import ConfigError
from rtda_jax.run.command import parse
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.tools import audit, hub
from rtda_jax.tools.environment import trained_folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Returns a finished run of two networks, each with a teacher, and its results."""
    folder = tmp_path_factory.mktemp("run") / "fda_mbt"
    made = config("fda_mbt").lock()
    write_workdir(made, folder)
    score = {
        "miou": 0.312,
        "pixel_accuracy": 0.7,
        "iou": {"road": 0.9, "car": None},
        "images": 4,
        "step": made.steps,
        "models": ["beta_001", "beta_005"],
        "protocol": {"mode": "whole", "split": {"list": "/home/ann/val.txt"}},
    }
    write_json(folder / "results.json", {"stages": {"eval_mbt": score}})
    record = read_json(folder / "config.json")
    record["data_dir"] = "/home/ann/data"
    write_json(folder / "config.json", record)
    return folder


def choose(folder, **options):
    from configs import base

    made = networks.recorded(folder, defaults=base.unchanged)
    return networks.choose(made, folder, **options)


@pytest.fixture(scope="module")
def published(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "published"
    return publish.run(choose(workdir), out=out, licence="cc-by-nc-4.0"), out


def test_a_published_folder_predicts_every_pixel_as_the_run(workdir, published):
    record, out = published
    ours, theirs = choose(workdir), choose(out)
    assert theirs.names == ours.names == ("beta_001", "beta_005")
    assert (theirs.stage, theirs.networks) == (ours.stage, ours.networks)
    assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == [
        "README.md",
        "beta_001.safetensors",
        "beta_005.safetensors",
        "config.json",
        "published.json",
    ]
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    classes = [
        np.asarray(evaluate.predictor(chosen.models)(image, size=(32, 64)))
        for chosen in (ours, theirs)
    ]
    assert len(np.unique(classes[0])) > 2
    np.testing.assert_array_equal(*classes)
    for name, about in record["networks"].items():
        assert about["sha256"] == hashlib.sha256((out / about["file"]).read_bytes()).hexdigest()
        assert about["network"] == "bisenet_resnet18"
        assert name in theirs.names


def test_no_path_of_the_machine_that_trained_is_published(published):
    _, out = published
    for path in out.glob("*.*"):
        assert b"/home/ann" not in path.read_bytes()
    assert read_json(out / "config.json")["data_dir"] == "data"


def test_the_card_states_score_protocol_classes_caveats_and_the_command(published):
    _, out = published
    card = (out / "README.md").read_text()
    header = card.split("---")[1]
    assert 'license: "cc-by-nc-4.0"' in header and 'library_name: "rtda_jax"' in header
    for part in (
        "31.2 mIoU",
        "70.0 pixel accuracy",
        "| road | 90.0 |",
        "| car | n/a |",
        '"mode": "whole"',
        "labels of `streets` (`game_train`) and images of `streets` (`camera_train`)",
        "rtda-jax predict photo.jpg --weights FOLDER",
        "forbid commercial use",
        hashlib.sha256((out / "beta_001.safetensors").read_bytes()).hexdigest(),
    ):
        assert part in card


def test_one_stage_is_published_alone_and_says_that_it_was_not_evaluated(workdir, tmp_path):
    record = publish.run(choose(workdir, stage="beta_005"), out=tmp_path)
    assert list(record["networks"]) == ["beta_005"] and record["score"] is None
    assert "not evaluated" in (tmp_path / "README.md").read_text()
    assert choose(tmp_path, stage="beta_005").names == ("beta_005",)
    with pytest.raises(ConfigError, match="'beta_005' alone, not of 'eval_mbt'"):
        choose(tmp_path, stage="eval_mbt")


def test_an_evaluation_without_labels_has_no_score_to_publish(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    results = read_json(workdir / "results.json")
    results["stages"]["eval_mbt"] |= {"miou": None, "pixel_accuracy": None}
    write_json(tmp_path / "run" / "results.json", results)
    assert publish.score(choose(tmp_path / "run")) is None


@pytest.mark.parametrize(
    "change", [{"step": 400}, {"weights": {"beta_005": "0" * 16}}, {"models": ["beta_001"]}]
)
def test_a_score_of_other_weights_is_not_published(workdir, tmp_path, change):
    shutil.copytree(workdir, tmp_path / "run")
    results = read_json(workdir / "results.json")
    results["stages"]["eval_mbt"]["weights"] = dict(choose(workdir).seals)
    write_json(tmp_path / "run" / "results.json", results)
    assert publish.score(choose(tmp_path / "run"))["miou"] == 0.312
    results["stages"]["eval_mbt"] |= change
    write_json(tmp_path / "run" / "results.json", results)
    assert publish.score(choose(tmp_path / "run")) is None


def test_networks_of_another_architecture_than_the_evaluation_keep_theirs(tmp_path):
    made = config("fda_mbt")
    with made.unlocked():
        made.stage.beta_005.model = {"name": "bisenet_stdc1"}
    write_workdir(made.lock(), tmp_path / "run")
    record = publish.run(choose(tmp_path / "run"), out=tmp_path / "out")
    assert [n["network"] for n in record["networks"].values()] == [
        "bisenet_resnet18",
        "bisenet_stdc1",
    ]
    assert choose(tmp_path / "out").networks == ("bisenet_resnet18", "bisenet_stdc1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["networks"]["beta_001"].update(sha256="0" * 64), "not the file that was"),
        (lambda r: r["networks"]["beta_001"].update(file="../x.safetensors"), "of this folder"),
        (lambda r: r["networks"]["beta_001"].update(file="x.pth"), "of this folder"),
        (lambda r: r["networks"]["beta_001"].update(file="x.safetensors"), "is missing"),
        (lambda r: r["networks"].update(other=r["networks"]["beta_001"]), "names stages"),
        (lambda r: r.update(stage="other"), "names stages"),
        (lambda r: r.pop("networks"), "'networks' is missing"),
        (lambda r: r.update(networks=[1]), "missing or wrong"),
    ],
)
def test_a_damaged_folder_is_refused(published, tmp_path, change, message):
    _, out = published
    record = read_json(out / "published.json")
    change(record)
    for path in out.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_json(tmp_path / "published.json", record)
    with pytest.raises(ConfigError, match=message):
        choose(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("eval.fusion", "logits"), ("benchmark.eval_size", "16,32")]
)
@pytest.mark.parametrize("words", [[], ["--config=fda_mbt"]])
def test_what_would_not_be_published_is_refused(workdir, tmp_path, capfd, field, value, words):
    out = tmp_path / "out"
    line = ["publish", f"--weights={workdir}", f"--config.{field}={value}", f"--output={out}"]
    assert main([*line, *words]) == 2
    assert f"--config.{field}: publish writes the record of" in capfd.readouterr().err
    assert not out.exists()


def test_publishing_overwrites_nothing_of_the_user(workdir, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md"):
        publish.run(choose(workdir), out=tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_refused_leaves_the_earlier_folder(workdir, tmp_path):
    publish.run(choose(workdir), out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    *others, last = (chosen := choose(workdir)).models
    large = jax.tree.map(lambda leaf: np.full_like(leaf, 1e5), last.variables)
    with pytest.raises(ConfigError, match=r"beta_005\.safetensors: .* float16 cannot hold"):
        publish.run(
            chosen._replace(models=(*others, last._replace(variables=large))),
            out=tmp_path,
            precision="float16",
        )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_own_classes_are_published_as_their_definition(tmp_path):
    from rtda_jax.data.labels import class_set, define

    (tmp_path / "labels.json").write_text(define(["road", "sky", "car"]))
    made = config("fda")
    with made.unlocked():
        made.benchmark.classes = made.benchmark.eval_classes = str(tmp_path / "labels.json")
    write_workdir(made.lock(), tmp_path / "run")
    publish.run(choose(tmp_path / "run"), out=tmp_path / "out")
    (tmp_path / "labels.json").unlink()
    chosen = choose(tmp_path / "out")
    assert class_set(chosen.config.benchmark.classes).names == ("road", "sky", "car")


def test_a_given_configuration_must_be_the_published_one(workdir, published):
    _, out = published
    made = config("fda_mbt")
    networks.check(made.lock(), out)
    with made.unlocked():
        made.normalisation = "caffe_bgr"
    with pytest.raises(ConfigError, match="published with normalisation='auto'"):
        networks.check(made.lock(), out)


@pytest.mark.parametrize("job", [experiment.run, experiment.reevaluate, audit.run])
def test_nothing_is_trained_or_evaluated_in_a_published_folder(published, job):
    _, out = published
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    with pytest.raises(ConfigError, match="is a published folder: predict, export"):
        job(config("source_only").lock(), out)
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before


def test_a_folder_published_again_keeps_its_score(published, tmp_path):
    record, out = published
    assert publish.run(choose(out), out=tmp_path)["score"] == record["score"]


def test_weights_of_half_the_size_predict_almost_every_pixel_alike(workdir, published, tmp_path):
    _, whole = published
    record = publish.run(choose(workdir), out=tmp_path, precision="float16")
    assert record["precision"] == "float16"
    assert "before the weights were rounded to float16" in (tmp_path / "README.md").read_text()
    assert "rounded" not in (whole / "README.md").read_text()
    sizes = [(folder / "beta_001.safetensors").stat().st_size for folder in (tmp_path, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    image = np.random.default_rng(2).integers(0, 256, (32, 64, 3), np.uint8)
    rounded, exact = (
        np.asarray(evaluate.predictor(choose(folder).models)(image, size=(32, 64)))
        for folder in (tmp_path, whole)
    )
    assert np.mean(rounded == exact) > 0.99
    with pytest.raises(ConfigError, match="unknown precision 'int8'"):
        publish.run(choose(workdir), out=tmp_path / "out", precision="int8")
    assert not (tmp_path / "out").exists()


def test_the_network_of_the_package_predicts_as_well_as_its_card_says():
    """Uses fewer images than the model card, so that a wrong class or normalisation would show."""
    folder = hub.find("streets")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    card = (folder / "README.md").read_text()
    assert "Training began from the weights `imagenet`" in card
    chosen = choose(folder)
    predict_image = evaluate.predictor(chosen.models)
    right = labelled = 0
    train_ids = np.full(256, IGNORE, np.uint8)
    train_ids[list(TRAIN_IDS)] = list(TRAIN_IDS.values())
    for example in rendered(("camera_val", 0, 12)):
        image, ids = (np.asarray(Image.open(io.BytesIO(data))) for data in example[1:])
        labels = train_ids[ids]
        classes = np.asarray(predict_image(image, size=labels.shape))
        right += np.sum(classes == labels)
        labelled += np.sum(labels != IGNORE)
    score = read_json(folder / "published.json")["score"]
    assert abs(right / labelled - score["pixel_accuracy"]) < 0.1


def test_a_network_of_the_package_is_found_last_and_its_results_go_to_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = parse(["predict", "x.png", "--weights=streets"], JOBS)[1]
    assert command.workdir == trained_folder() / "streets"
    assert command.output("predict") == pathlib.Path("runs/streets/predict")
    command.output("predict").mkdir(parents=True)  # its own results do not hide it
    assert hub.find("streets") == trained_folder() / "streets"
    for record in ("seed0/config.json", "config.json"):
        path = tmp_path / "runs" / "streets" / record
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
        assert hub.find("streets") == pathlib.Path("runs/streets")
        path.unlink()
    with pytest.raises(ConfigError, match=r"no such folder.*with rtda_jax come: streets"):
        parse(["predict", "x.png", "--weights=street"], JOBS)


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    handler = type("Handler", (FakeHub,), {"files": {}, "refuses": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("HF_TOKEN", "hf_fake")
    yield handler
    server.shutdown()
    server.server_close()


def test_what_was_uploaded_is_loaded_by_its_address(fake_hub, workdir, tmp_path):
    record = publish.run(choose(workdir), out=tmp_path / "out", repository="ann/streets")
    assert sorted(fake_hub.files) == sorted(record["results"])
    assert b"--weights hf://ann/streets" in fake_hub.files["README.md"]
    folder = hub.find_workdir("fda_mbt", workdir=None, weights="hf://ann/streets")
    theirs = choose(folder)
    line = ["predict", "x.png", "--weights=hf://ann/streets"]
    command = parse(line, JOBS)[1]
    assert command.output("predict") == pathlib.Path("runs/ann--streets/predict")
    with pytest.raises(ConfigError, match="goes with predict, export, publish, retrieve, not run"):
        parse(["run", line[-1]], JOBS)
    assert theirs.names == ("beta_001", "beta_005")
    image = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    np.testing.assert_array_equal(
        *(
            np.asarray(evaluate.predictor(chosen.models)(image, size=(32, 64)))
            for chosen in (choose(workdir), theirs)
        )
    )


def test_a_repository_of_others_and_a_refusing_hub_are_sentences(fake_hub, workdir, tmp_path):
    fake_hub.files["README.md"] = b"# something else"
    with pytest.raises(ConfigError, match=r"holds no published\.json"):
        hub.download("hf://ann/streets")
    fake_hub.refuses = 404
    with pytest.raises(ConfigError, match="hf://ann/other: "):
        hub.download("hf://ann/other")
    fake_hub.refuses = 403
    with pytest.raises(ConfigError, match="can be uploaded by hand"):
        publish.run(choose(workdir), out=tmp_path / "out", repository="ann/streets")
    assert (tmp_path / "out" / "published.json").exists()


def test_a_hub_out_of_reach_is_a_sentence(fake_hub, monkeypatch, workdir, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="hf://ann/streets: "):
        hub.download("hf://ann/streets")
    with pytest.raises(ConfigError, match="can be uploaded by hand"):
        publish.run(choose(workdir), out=tmp_path / "out", repository="ann/streets")


@pytest.mark.parametrize("name", ["streets", "ann/streets/x", "ann/streets@main", "", "a b/c"])
def test_a_wrong_name_is_refused_before_anything_is_written(workdir, tmp_path, name):
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        publish.run(choose(workdir), out=tmp_path / "out", repository=name)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="expected hf://OWNER/NAME"):
        hub.download(f"hf://{name}".replace("@main", "@"))


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'rtda_jax\[hub\]'"):
        hub.download("hf://ann/streets")


def test_predict_takes_a_published_folder(published, tmp_path):
    _, out = published
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(path)
    predict.run(
        lambda: choose(out),
        source=str(path),
        out=tmp_path / "predict",
        views=["overlay"],
        resolution="eval",
    )
    assert pathlib.Path(tmp_path / "predict" / "overlay" / "photo.png").exists()
