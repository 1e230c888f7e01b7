import base64
import hashlib
import io
import json
import re
import xml.etree.ElementTree

import numpy as np
from PIL import Image
from run_records import HEAD, Tags, contents_of

from rtda_jax.report import page


def test_images_of_few_colours_are_kept_exactly():
    rng = np.random.default_rng(3)
    labels = np.asarray(HEAD.colours, np.uint8)[rng.integers(0, 19, (20, 30))]
    data, ending = page.encode(labels)
    assert ending == "png"
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), labels)
    assert page.encode(rng.integers(0, 256, (40, 40, 3), np.uint8))[1] == "jpg"


def test_the_page_is_well_formed_and_loads_nothing(written):
    text = (written / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.repeated == set()
    assert all(load.startswith(("data:", "#")) for load in tags.loads)
    links = {load[1:] for load in tags.loads if load.startswith("#")}
    assert {"method-fda_mbt:eval_mbt", "run-fda_mbt-seed1"} <= links <= tags.ids
    assert re.findall(r"https?://[^\"\s<]+", text) == []
    assert "nan" not in re.findall(r"\"(nan|inf|None)[^\"]*\"", text)
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) > 12
    for svg in drawings:
        xml.etree.ElementTree.fromstring(svg)
        assert "0bad" not in svg  # an ink that was not replaced


def test_only_the_pages_own_script_may_run(written):
    text = (written / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_each_number_leads_to_its_run(written):
    text = (written / "report.html").read_text()
    line = next(part for part in text.split("<tr") if ">source_only</a>" in part)
    assert 'href="#method-source_only"' in line
    for seed in range(3):
        assert f'href="#run-source_only-seed{seed}"' in line
        details = text[text.index(f'<details id="run-source_only-seed{seed}"') :]
        command = f"python main.py --config configs/source_only.py --config.seed={seed}"
        assert command in details[: details.index("</details>")]


def test_different_words_have_different_anchors():
    words = ["a b", "a_b", "a-b", "a/b", "a.b", "A b", "a · b", "a: b", "a:b", "a.20b", "é", "e"]
    assert len({page.anchor("run", text) for text in words}) == len(words)
    assert page.anchor("method", "mbt · eval_mbt") == "method-mbt:eval_mbt"
    assert all(re.fullmatch(r"[\w:.-]+", page.anchor("x", text)) for text in words)


def test_markdown_refers_to_every_file_beside_it(written):
    text = (written / "report.md").read_text()
    beside = contents_of(written)
    named = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert named == {name for name in beside if name.startswith("figures/")}
    listed = json.loads(beside["report.json"])["files"]
    assert listed == sorted({*named, "report.md", "report.html"})
    for name in named:
        if name.endswith(".svg"):
            svg = (written / name).read_text()
            xml.etree.ElementTree.fromstring(svg)
            assert "prefers-color-scheme:dark" in svg


def test_both_files_have_the_same_tables(written):
    html = (written / "report.html").read_text()
    markdown = (written / "report.md").read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    plain = [re.sub(r"<[^>]+>", "", cell) for cell in cells]
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    in_text = [cell.strip(" *") for line in lines for cell in line.strip("|").split(" | ")]
    assert [c for c in in_text if re.match(r"\d+\.\d", c)] == [
        c for c in plain if re.match(r"\d+\.\d", c)
    ]
