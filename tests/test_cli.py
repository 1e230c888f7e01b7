"""The command line answers bad input with a sentence and an exit code, and loses nothing."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import logging
from helpers import folder_fields, write_folders
from PIL import Image

import rtda_jax
from configs import benchmarks
from rtda_jax import cli, experiment
from rtda_jax.cli import JOBS, exit_code_of, main
from rtda_jax.run import files
from rtda_jax.run.command import define_flags, load_config, parse
from rtda_jax.run.options import flat, plain
from rtda_jax.run.workdir import write_json
from rtda_jax.tools import environment

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], capture_output=True, text=True
    )
    return done.returncode, done.stderr


def test_a_wrong_command_line_of_the_program_is_a_sentence():
    code, said = command("--config=fda", "--config.optim.g_lrr=1")
    assert code == 2
    assert "no field 'optim.g_lrr'; did you mean optim.g_lr" in said
    assert "Traceback" not in said


FILES = {
    "syntax.py": "import os\ndef get_config(:\n",
    "empty.py": "",
    "fails.py": "def get_config():\n    return 1 / 0\n",
    "imports.py": "\nimport no_such_module\n",
    "plain.py": "def get_config():\n    return {'steps': 1}\n",
    "few.py": "import ml_collections\nget_config = ml_collections.ConfigDict\n",
    "alone.py": "from configs import base\ndef get_config():\n    return base.get_config()\n",
    "zeros.py": "\0\0",
    "notes": "not Python",
}
MISTYPED = {  # under fda
    # fields
    "--config.optim.g_lrr=1": "no field 'optim.g_lrr'; did you mean optim.g_lr",
    "--config.g_lr=1": "no field 'g_lr'; did you mean benchmark.g_lr or optim.g_lr",
    "--config.nope=1": "no field 'nope'; known: adversary,",
    "--config.nope.rounds=2": "no field 'nope.rounds'; did you mean speed.rounds?",
    "--config.optim.nope.x=1": "no field 'optim.nope.x'; known: accumulate, d_betas,",
    "--config.optim.g_lr.x=1": "optim.g_lr has no fields, it is 0.0",
    "--config.stage.nope.kind=train": "no field 'stage.nope.kind'; did you mean stage.",
    "--config.stage.train.stepz=9": "no field 'stage.train.stepz'; did you mean",
    "--config.=1": "no field ''; known: adversary,",
    "--config..steps=1": "no field '.steps'; did you mean",
    "--config.steps.=1": "steps has no fields",
    "--config.__class__=1": "no field '__class__'",
    "--config.update=1": "no field 'update'",
    "--noconfig.steps": "Unknown command line flag 'noconfig.steps'",
    # values
    "--config.steps": "Missing value for flag --config.steps",
    "--config.steps=": "--config.steps must be a whole number, got ''",
    "--config.steps=abc": "--config.steps must be a whole number, got 'abc'",
    "--config.steps abc": "--config.steps must be a whole number, got 'abc'",
    "--config.steps=1.5": "must be a whole number, got '1.5'",
    "--config.steps=1e400": "must be a whole number",
    "--config.optim.g_lr=fast": "--config.optim.g_lr must be a number, got 'fast'",
    "--config.optim.g_lr=1,2": "must be a number, got '1,2'",
    "--config.steps=-99999999999999999999": "steps must fit into 64 bits",
    "--config.optim.g_lr=nan": "optim.g_lr must be finite, got nan",
    "--config.augment.flip=perhaps": "--config.augment.flip must be true or false, got 'perhaps'",
    "--config.optim=3": "--config.optim must be set by its fields",
    "--config.optim={": "--config.optim must be set by its fields",
    "--config.benchmark=streets": "--config.benchmark must be set by its fields",
    "--config.speed.rounds=many": "--config.speed.rounds must be a whole number",
    "--config.benchmark.crop[0]=3": "values of a tuple are set together",
    "--config.benchmark.crop[9]=3": "values of a tuple are set together",
    "--config.benchmark.crop[x=3": "values of a tuple are set together",
    "--config.benchmark.crop=(1,2": "--config.benchmark.crop must be values with commas",
    "--config.benchmark.crop=('a,2)": "--config.benchmark.crop must be values with commas",
    "--config.benchmark.crop=64": "benchmark.crop must have 2 values, got (64,)",
    "--config.benchmark.crop=64x128": "benchmark.crop must have 2 values, got ('64x128',)",
    "--config.benchmark.crop=": "benchmark.crop must have 2 values",
    "--config.benchmark.crop=(1,'a')": "benchmark.crop must be a whole number, got 'a'",
    "--config.eval.mode=3": "unknown eval.mode '3'; known: slide, whole",
    "--config.model.name=resnet": "unknown model.name 'resnet'; known: bisenet_",
    "--config.stages=(1,)": "unknown name in stages 1; known: evaluate, train",
    "--config.loggers=paper": "unknown name in `loggers`: 'paper'",
    # given twice
    "--config.steps=1 --config.steps=2": "--config.steps is given twice",
    "--config.steps 1 --config.steps=2": "--config.steps is given twice",
    "--config.benchmark.crop=8,8 --config.benchmark.crop=9,9": "benchmark.crop is given twice",
    "--workdir a --workdir=b": "--workdir is given twice",
    "--config adv": "--config is given twice",
    # other flags
    "--nope": "Unknown command line flag 'nope'",
    "-x": "Unknown command line flag 'x'",
    "--wrkdir=a": "Unknown command line flag 'wrkdir'",
    "--job": "Missing value for flag --job",
    "--job=": "unknown job ''; known: audit",
    "--job=fly": "unknown job 'fly'; known: audit",
    "--job=predict": "the job predict needs an input",
    "run": "unexpected arguments: run",
    "--seeds=x": "flag --seeds=x: ",
    "--seeds=0": "--seeds must be 1 or more, got 0",
    "--seeds=2 --job=summary": "--seeds goes with run, train, evaluate, not summary",
    "--stage=train": "--stage goes with predict, export, publish, retrieve, not run",
    "--job=report --workdir=a": "--workdir goes with run, train, evaluate, predict,",
    "--job=report a": "--config goes with run, train, evaluate, predict,",
    "--num_processes=2 --process_id=0": "--num_processes and --process_id need --coordinator",
    "--deterministic=perhaps": "flag --deterministic=perhaps: ",
    "--flagfile=missing": "missing",
    "--job=export --weights=nope": "--weights=nope: no such folder",
    "--coordinator=host:1": "needs --num_processes and --process_id",
    "--coordinator=host --num_processes=2 --process_id=0": "must be HOST:PORT",
    "--coordinator=host:http --num_processes=2 --process_id=0": "must be HOST:PORT",
    "--job=benchmark --parts=sleep": "no part 'sleep'",
    "--job=evaluate --workdir nothing": "nothing holds no run; train it first",
    # places
    "--workdir=": "--workdir is empty",
    "--data_dir=": "--data_dir is empty",
    "--job=predict --input=": "--input is empty",
    "--job=export --weights=": "--weights is empty",
    "--workdir=notes": "--workdir=notes: notes is not a folder",
    "--workdir=notes/x/y": "--workdir=notes/x/y: notes is not a folder",
}
LINES = {f"--config=fda {words}": sentence for words, sentence in MISTYPED.items()} | {
    "fly": "unknown job 'fly'; known: audit",
    "run": "the job run needs --config, one of adabn,",
    "--config=fda --config.rare_class=true": "rare_class must be a number, got 'true'",
    "--config.steps=3": "the job run needs --config, one of adabn,",
    "train": "the job run needs --config, one of adabn,",
    "--Config fda": "unknown flag --Config; did you mean --config?",
    "-predict": "unknown flag --predict; --help lists the flags",
    "summary --wrkdir=a": "unknown flag --wrkdir; did you mean --workdir?",
    "predictt photo.jpg": "unknown job 'predictt'; known: audit",
    "summary --config=fda --config.benchmark.crop=64": "benchmark.crop must have 2 values",
    "summary --config=fda --config.benchmark.crop=a,b": "crop must have 2 values, got ('a,b',)",
    "--config=fda:folders --config.benchmark.name=streets": "after the colon of --config, as in",
    "summary --weights streets": "--weights goes with predict, export, publish, retrieve, not summ",
    "summary --output nowhere": "--output goes with predict, export, publish, retrieve, report, n",
    "report a --config.steps=3": "--config goes with run, train, evaluate, predict,",
    "summary a b c d": "unexpected arguments: a, b, c and 1 more; a path with spaces needs quotes",
    "predict a.jpg b.jpg": "predict takes one input, got 2: a.jpg, b.jpg; give a folder to have",
    "predict b --input=a": "the job predict takes one input, got 2: b; give a folder",
    "predict folder.py/../syntax.py folder.py/../zeros.py": "give the folder folder.py/.. to have",
    "report": "name the workdirs to report on",
    "report nothing": "nothing finds no folder",
    "--config": "--config names one of adabn, ",
    "--config=": "unknown configuration ''; known: adabn",
    "--config=fdb": "unknown configuration 'fdb'; known: adabn",
    "--config=base": "unknown configuration 'base'; known: adabn",
    "--config=missing.py": "no configuration file missing.py",
    "--config=~nobody/x.py": "no configuration file ~nobody/x.py",
    "--config=x/fda.py": "no configuration file x/fda.py; --config=fda is the one that comes",
    "--config=folder.py": "--config=folder.py is a folder",
    "--config=folder/": "--config=folder/ is a folder",
    "--config=./notes": "the name of a file of Python ends in .py",
    "--config=syntax.py": "syntax.py, line 2: SyntaxError: ",
    "--config=zeros.py": "zeros.py: SyntaxError: ",
    "--config=empty.py": "empty.py: has no function get_config",
    "--config=fails.py": "fails.py, line 2: ZeroDivisionError: division by zero",
    "--config=imports.py": "imports.py, line 2: ModuleNotFoundError: No module named",
    "--config=plain.py": "plain.py: get_config returns a dict, not a ConfigDict",
    "--config=few.py": "few.py: the configuration lacks adversary.",
    "--config=alone.py:streets": "alone.py: TypeError: get_config() takes 0 positional arguments",
    "--config=fda:nope": "unknown benchmark 'nope'; known: cityscapes_to",
    "--config=fda:beta": "unknown benchmark 'beta'; known: cityscapes_to",
    "--config=fda:beta=x": "beta in 'beta=x' must be a number, got 'x'",
    "--config=fda:=3": "unknown option in '=3'",
    "--config=fda:beta=1,beta=1": "beta is given twice",
}


def test_a_file_that_cannot_be_used_is_named_without_its_number(capfd):
    def job():
        pathlib.Path("/dev/null/x").read_bytes()

    assert exit_code_of(job) == 74
    assert capfd.readouterr().err == "\nOSError: /dev/null/x: Not a directory\n"


def test_a_device_without_memory_left_is_a_sentence_and_says_what_helps(capfd):
    """JAX's error may be the cause of another one."""

    def job():
        try:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory, 8 GiB.\nBuffers:")
        except jax.errors.JaxRuntimeError as error:
            raise RuntimeError("the step failed") from error

    assert exit_code_of(job) == 9
    message = capfd.readouterr().err
    assert message.startswith(
        "\nDeviceMemoryError: the device has not enough memory: RESOURCE_EXHAUSTED: Out of memory, "
        "8 GiB; in training, lower batch_size"
    )
    assert message.count("\n") == 2


def test_ctrl_c_is_no_traceback_in_any_job(capfd):
    def job():
        raise KeyboardInterrupt

    assert exit_code_of(job) == 75
    assert capfd.readouterr().err == "\nInterrupted: stopped\n"


def test_compiled_programs_are_kept_where_the_user_wants_them(monkeypatch):
    folder = jax.config.jax_compilation_cache_dir
    try:
        for chosen, expected in (("/elsewhere", folder), ("", str(cli.CACHE / "compiled"))):
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)  # JAX itself reads it once
            assert main(["summary", "--config=no_such"]) == 2
            assert jax.config.jax_compilation_cache_dir == expected
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)


def test_an_empty_variable_is_no_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    code = "from rtda_jax import cli; print(cli.CACHE)"
    folder = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert folder.strip() == str(pathlib.Path("~/.cache/rtda_jax").expanduser())


def test_help_and_version_are_also_words(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py"])
    assert main(["help"]) == main(["--version"]) == 0
    said = capsys.readouterr().out
    assert "Usage: python main.py [JOB]" in said
    assert said.endswith(f"python main.py {rtda_jax.__version__}\n")


@pytest.mark.parametrize("words", [["train"], ["--job=train"]])
def test_train_is_another_word_for_run(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    jobs = {name: job._replace(run=lambda _: None) for name, job in JOBS.items()}
    job, command = parse([*words, "--config=fda", "--seeds=2"], jobs)
    assert job == jobs["train"]
    assert JOBS["train"].run is JOBS["run"].run
    assert command.flags.seeds == 2


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes a folder with strange configurations, in which nothing is trained."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for name in ("folder.py", "folder"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(experiment, "run", lambda config, _: experiment.checked_plan(config))
    # The program sets these for its whole process.
    for name in ("keep_freed_memory", "retire_holes_after_compilations"):
        monkeypatch.setattr(environment, name, lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(logging, "use_absl_handler", lambda: None)
    return tmp_path


@pytest.mark.parametrize("line", LINES)
def test_no_mistyped_command_line_ends_in_a_traceback(line, place, capfd):
    before = sorted(place.rglob("*"))
    assert main(line.split(" ")) == 2
    said = capfd.readouterr().err
    assert LINES[line] in said
    assert "Traceback" not in said
    assert sorted(p for p in place.rglob("*") if "__pycache__" not in p.parts) == before


def test_a_configuration_file_runs(tmp_path):
    """A configuration file is executed, which is why it has to be trusted."""
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(
        f"from configs.base import get_config\nopen({str(ran)!r}, 'w').close()\n"
    )
    config = load_config(f"{tmp_path}/mine.py:streets")
    assert ran.exists() and config.benchmark.name == "streets"


def test_a_bug_of_ours_is_no_mistake_of_a_configuration_file(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "BENCHMARKS", None)
    (tmp_path / "mine.py").write_text("from configs.base import get_config\n")
    with pytest.raises(TypeError):
        load_config(f"{tmp_path}/mine.py:streets")


def test_every_field_of_a_configuration_can_be_set_to_its_own_value():
    """`check_fields` accepts exactly the values that the library of flags reads."""
    config = load_config("fda")
    for name, value in flat(config.to_dict()).items():
        if value is not None and value != {}:
            parsed = parse(["--config=fda", f"--config.{name}={value}"], JOBS)[1].config
            assert parsed.to_dict() == config.to_dict(), name


@pytest.fixture
def root(tmp_path):
    write_folders(tmp_path)
    return tmp_path


def broken_image(root):
    path = root / "source" / "images" / "001.png"
    path.write_bytes(path.read_bytes()[:200])
    return "001.png"


def other_size(root):
    path = root / "source" / "labels" / "002.png"
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
    return "002.png"


def strange_id(root):
    path = root / "source" / "labels" / "000.png"
    Image.fromarray(np.full((40, 80), 99, np.uint8)).save(path)
    return "000.png"


def no_folder(root):
    (root / "source").rename(root / "elsewhere")
    return "no such folder"


@pytest.mark.parametrize("damage", [broken_image, other_size, strange_id, no_folder])
def test_broken_data_is_named(root, damage):
    named = damage(root)
    fields = {**folder_fields(root), "steps": 4, "batch_size": 4}
    code, said = command(
        f"--config={ROOT}/configs/source_only.py:folders",
        "--config.benchmark.crop=(32,64)",
        "--config.benchmark.size=(32,64)",
        f"--workdir={root / 'run'}",
        *[f"--config.{name}={value}" for name, value in fields.items()],
    )
    assert code == 4, said
    assert "DataError" in said
    assert named in said
    assert "Traceback" not in said


def test_no_two_jobs_check_data_into_one_workdir(tmp_path):
    with files.lock(tmp_path / "data"):
        code, said = command(
            f"--config={ROOT}/configs/fda.py", "--job=check_data", f"--workdir={tmp_path}"
        )
    assert code == 2
    assert "data is in use by another process" in said


@pytest.mark.parametrize("seeds", [False, True])
@pytest.mark.parametrize("job", ["run", "evaluate", "audit", "check_data"])
def test_a_job_on_a_workdir_has_the_configuration_of_the_workdir(tmp_path, monkeypatch, job, seeds):
    made = load_config("source_only")
    made.steps = 7
    folder = tmp_path / "seed0" if seeds else tmp_path
    write_json(folder / "config.json", plain(made))
    done = []
    monkeypatch.setitem(JOBS, job, JOBS[job]._replace(run=done.append))
    assert main([job, f"--workdir={tmp_path}", "--config.eval.mode=slide"]) == 0
    assert flat(plain(done[0].config)) == flat(plain(made)) | {"eval.mode": "slide"}


def test_words_name_the_job_and_its_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    line = ["predict", "photo.jpg", "--weights", "mine", "--config", "fda:beta=0.05"]
    job, parsed = parse([*line, "--config.steps", "3"], JOBS)
    assert job is JOBS["predict"]
    assert parsed.flags.input == "photo.jpg"
    assert parsed.workdir == pathlib.Path("runs/mine")
    assert (parsed.config.fda_beta, parsed.config.steps) == (0.05, 3)
    assert parsed.given and parsed.overrides == {"steps": 3}
    assert parse(["--job=predict", "--input=photo.jpg"], JOBS)[0] is job


def test_the_help_names_every_job_and_flag_in_100_columns(capsys):
    assert main([]) == 0
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in JOBS)
    assert all(f"\n  --{name} " in text for name in define_flags())
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "--data_dir Where data sets lie; default $RTDA_JAX_DATA or ~/.cache/rtda_jax." in words
    assert "--output predict, export, publish, retrieve, report: folder of results;" in words
    assert "WORKDIR/JOB, of publish WORKDIR/published, of report ./report." in words
