import xml.etree.ElementTree

from rtda_jax.report import compare, figures, runs
from rtda_jax.stages import KINDS


def test_curves_are_means_over_common_steps(workdirs):
    axes = figures.canvas(100, (0, 0, 0, 0))
    training = {
        seed: runs.Training([], 1, 20, [{"step": s, "loss": seed + s} for s in steps])
        for seed, steps in ((1, (10, 20)), (2, (20, 30)))
    }
    stages = [
        compare.Stage(
            runs.Run(f"a-s{seed}", {}, "b", seed, {"t": KINDS["train"]}, trainings={"t": made}),
            *("t", {}, 20, frozenset()),
        )
        for seed, made in training.items()
    ]
    figures._line(axes, compare.Series("a", stages, [], 3, 0), "loss", colour=3)
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines == [([10, 20], [11, 21]), ([20, 30], [22, 32]), ([20], [21.5])]


def test_long_curves_are_thinned_to_the_means_of_neighbours():
    steps, values = figures._thin({step: step % 2 for step in range(1, 1601)})
    assert (len(steps), steps[0], steps[-1]) == (160, 10, 1600)
    assert set(values) == {0.5}


def test_a_tooltip_and_its_method_are_kept_to_the_letter():
    words, method = "a < \"b\": 0.12345; & 'c' -0.000", 'lr-0.00125: "x"; <y>'
    axes = figures.canvas(100, (0, 0, 0, 0))
    figures.tip(axes.plot([1, 2], [1, 2]), words, method=method)
    figures.tip(axes.plot([1, 2], [2, 1]), "nobody's")
    root = xml.etree.ElementTree.fromstring(figures.render(axes, "title"))
    marks = [group for group in root.iter("g") if group.find("title") is not None]
    shown = [(mark.get("data-method"), mark.find("title").text) for mark in marks]
    assert shown == [(method, words), (None, "nobody's")]
