import pytest

from rtda_jax.errors import ConfigError
from rtda_jax.report.records import Default, Least, checked

SCHEMA = {
    "name": str,
    "score": int | float | None,
    "seconds": Default(Least(int | float, 0), 1.5),
    "models": [str],
    "iou": {...: float},
    "others": Default([{"step": int}], []),
}
VALUE = {"name": "a", "score": None, "models": ["b", "c"], "iou": {"road": 0.5}, "more": 1}


def test_a_schema_draws_the_fields_it_names_and_defaults():
    drawn = {key: VALUE[key] for key in ("name", "score", "models", "iou")}
    assert checked(VALUE, SCHEMA, "file") == {**drawn, "seconds": 1.5, "others": []}
    others = [{"step": 3, "more": 1}]
    assert checked({**VALUE, "others": others}, SCHEMA, "file")["others"] == [{"step": 3}]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", 3, "file: field 'name' must be str, found 3"),
        ("name", None, "file: field 'name' must be str, found None"),
        ("score", True, "file: field 'score' must be int or float or null, found True"),
        ("score", 2**64, "file: field 'score' is too large a number"),
        ("seconds", -0.5, "file: field 'seconds' must be 0 or more, found -0.5"),
        ("seconds", "1", "file: field 'seconds' must be int or float, found '1'"),
        ("models", {}, "file: field 'models' must be list, found {}"),
        ("models", ["b", 1], "file: field 'models[1]' must be str, found 1"),
        ("iou", [], "file: field 'iou' must be object, found []"),
        ("iou", {"sky": "x"}, "file: iou: field 'sky' must be float, found 'x'"),
        ("others", [{}], "file: others: no field 'step'; is this a run's record?"),
    ],
)
def test_another_shape_is_named_by_place_and_field(field, value, words):
    with pytest.raises(ConfigError) as error:
        checked({**VALUE, field: value}, SCHEMA, "file")
    assert str(error.value) == words


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_has_no_fields(value):
    with pytest.raises(ConfigError, match="file: must be object, found"):
        checked(value, SCHEMA, "file")
