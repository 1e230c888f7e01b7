import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import classes, cuts, long_tail
from rtda_jax.data.labels import class_set


def test_candidates_are_pasted_with_their_relatives_one_over_the_other():
    image = np.zeros((2, 2, 4, 3), np.float32)
    label = np.zeros((2, 2, 4), np.uint8)
    mask = np.zeros((2, 2, 4), bool)
    mask[:, 0, 0] = True
    images = np.stack([np.full((2, 2, 4, 3), 10.0 * (slot + 1)) for slot in range(3)], axis=1)
    labels = np.full((2, 3, 2, 4), 255, np.uint8)
    labels[:, 0, 0] = [1, 1, 2, 3]
    labels[:, 1, 1] = [2, 2, 255, 3]
    labels[:, 2, 0] = [3, 0, 0, 3]
    table = np.zeros((4, 4), bool)
    table[1, 2] = True  # 1 brings 2
    got_image, got_label, got_mask = long_tail.paste_candidates(
        image,
        label,
        mask,
        images=images,
        labels=labels,
        classes=np.array([[1, 2, 3], [1, 2, 255]]),
        accepted=np.bool_([[1, 0, 1], [0, 1, 1]]),
        table=jnp.asarray(table),
    )
    np.testing.assert_array_equal(
        got_label, [[[3, 1, 2, 3], [0, 0, 0, 0]], [[0, 0, 0, 0], [2, 2, 0, 0]]]
    )
    np.testing.assert_array_equal(
        got_image[..., 0], [[[30, 10, 10, 30], [0, 0, 0, 0]], [[0, 0, 0, 0], [20, 20, 0, 0]]]
    )
    np.testing.assert_array_equal(
        got_mask, np.bool_([[[1, 1, 1, 1], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]])
    )


def test_accepted_candidates_follow_the_softmax_of_the_inverse_thresholds():
    theta = jnp.array([0.4, 0.6, 0.9, 0.99])
    classes = np.random.default_rng(0).integers(0, 4, (20000, 1))
    taken = long_tail.accepted(
        classes, jax.random.key(0), jnp.arange(20000), count=(1, 1), theta=theta
    )
    counts = np.bincount(classes[np.asarray(taken)], minlength=4)
    expected = jax.nn.softmax(1 / theta)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.015)


def test_as_many_are_taken_as_drawn_and_absent_ones_never():
    classes = np.tile(np.array([[255, 1, 1, 2, 2, 3]]), (300, 1))
    index = jnp.arange(300)
    taken = np.asarray(long_tail.accepted(classes, jax.random.key(1), index, count=(2, 4)))
    assert not taken[:, 0].any()
    assert set(taken.sum(axis=1).tolist()) == {2, 3, 4}
    assert taken[:, 1:3].all()  # the first ones that are there
    again = long_tail.accepted(classes[::-1], jax.random.key(1), index[::-1], count=(2, 4))
    np.testing.assert_array_equal(again[::-1], taken)


def test_tables_of_related_classes_go_by_name():
    names = class_set("cityscapes19").names
    gta5 = classes.table("gta5", names=names)
    bring = lambda t, n, c: {n[i] for i in np.flatnonzero(t[n.index(c)])}  # noqa: E731
    assert bring(gta5, names, "rider") == {"motorcycle", "bicycle"}
    assert bring(gta5, names, "pole") == {"traffic light", "traffic sign"}
    assert bring(gta5, names, "wall") == {"fence"}
    assert bring(gta5, names, "sky") == set()
    names = class_set("crosscity13").names
    city = classes.table("synthia", names=names)
    assert bring(city, names, "traffic light") == {"traffic sign"}
    assert {"car", "bus", "person", "rider"} <= bring(city, names, "road")
    assert not np.diag(gta5).any()
    assert not classes.table("none", names=names).any()
    with pytest.raises(ValueError, match=r"'kitti'; known: gta5, none, synthia"):
        classes.table("kitti", names=names)


@pytest.mark.parametrize(
    ("choice", "own", "slot"), [("uniform", [4, 2, 2, 1], 1), ("threshold", [4, 2, 4, 1], 3)]
)
def test_a_cut_pastes_what_its_choice_accepts_and_takes_fewer_classes_only_there(choice, own, slot):
    source = np.full((4, 4, 8), 255, np.uint8)
    source[:3, :2] = np.arange(8)
    source[3, :2] = np.arange(8) % 2
    offered = [[255] * 6, [6, 6, 3, 3, 3, 3], [6] * 6, [6, 6, 3, 3, 3, 3]]
    classes = np.array(offered, np.uint8)
    labels = np.full((4, 6, 4, 8), 255, np.uint8)
    labels[:, :, 2] = classes[:, :, None]
    labels[:, :, 3, :4] = classes[:, :, None] + (classes < 255)[:, :, None]  # comes along
    labels[:, :, 3, 4:] = 0  # does not
    batch = {
        "source_image": np.zeros((4, 4, 8, 3), np.float32),
        "source_label": source,
        "source_index": jnp.arange(4),
        "candidate_images": np.zeros((4, 6, 4, 8, 3)) + np.arange(1, 7).reshape(1, 6, 1, 1, 1),
        "candidate_labels": labels,
        "candidate_classes": classes,
        "theta": jnp.full(8, 0.99).at[3].set(0.06),  # of 6 none is accepted in e^15 draws
    }
    cut = cuts.make_cut(
        num_classes=8,
        ignore="never",
        pasted=(2, 2),
        pasted_related=jnp.eye(8, k=1, dtype=bool),
        choice=choice,
    )
    pasted = [i for i in range(4) if i and (choice == "uniform" or 3 in offered[i])]
    for step in range(4):
        image, label, mask = (np.asarray(x) for x in cut(batch, jax.random.key(step)))
        assert [len(np.unique(source[i, :2][mask[i, :2]])) for i in range(4)] == own
        np.testing.assert_array_equal(label[:, :2], source[:, :2])
        assert not image[:, :2].any()
        expected = np.zeros((4, 2, 8), bool)
        expected[pasted] = [[True] * 8, [True] * 4 + [False] * 4]
        np.testing.assert_array_equal(mask[:, 2:], expected)
        for i in pasted:
            np.testing.assert_array_equal(image[i, 2:, :, 0], (slot + 1) * expected[i])
            np.testing.assert_array_equal(
                label[i, 2:], np.where(expected[i], labels[i, slot, 2:], 255)
            )
