import pytest

from rtda_jax.errors import named, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b.png", "a b.png"),
        ("straße 線.png", "straße 線.png"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("exe.\u202egnp", "exe.\\u202egnp"),
        (b"\xe9.png".decode("utf-8", "surrogateescape"), "\\udce9.png"),
        ('it\'s "quoted" \\ too', 'it\'s "quoted" \\ too'),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    assert printable(text) == expected
    assert printable(text).isprintable()


def test_long_text_is_cut_in_its_middle():
    text = "".join(chr(ord("a") + n % 26) for n in range(1000))
    for limit in (1, 2, 3, 10, 11, 200):
        cut = printable(text, limit=limit)
        assert len(cut) == limit
        assert "…" in cut
        assert cut[: limit // 2] == text[: limit // 2]
        assert limit < 3 or cut[-1] == text[-1]
    assert printable(text, limit=None) == text
    assert printable("x" * 200) == "x" * 200
    assert len(printable("\n" * 150)) == 200


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [("a", 2, "a"), ("ab", 2, "a, b"), ("abc", 2, "a, b, ..."), ("abcd", 3, "a, b, c, ...")],
)
def test_a_sentence_names_the_first_few(names, most, text):
    assert named([*names], most=most) == text
