from __future__ import annotations

import math
import random

import pytest

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe.yaml import MAX_BYTES, MAX_DEPTH, dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("null", None),
        ("", None),
        ("# only a comment", None),
        ("007", 7),
        ("-12", -12),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ('"5"', "5"),
        ("'true'", "true"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("{a: {b: 1}, c: []}", {"a": {"b": 1}, "c": []}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("---\na: 1\n...\n", {"a": 1}),
        ('a: "x\ty"', {"a": "x\ty"}),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = parse(text, source="f")
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    value = parse(".nan", source="f")
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key a is here twice, first on line 1"),
        ("x:\n  a: 1\n  'a': 2", 3, "twice, first on line 2"),
        ("a: &x 1", 1, "anchors and aliases"),
        ("a: 1\nb: *x", 2, "anchors and aliases"),
        ("a: !!python/object/apply:os.system [id]", 1, "tags such as !!python/object/apply:os.system"),
        ("a: !!int 5", 1, "tags such as !!int"),
        ("a: ! 5", 1, "tags such as !"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a:\n\tb: 1", 2, "indented with a tab"),
        ("a:\n  \tb: 1", 2, "indented with a tab"),
        ("a: 1\nb: \0", 2, "the character U+0000"),
        ("a: \udcff", 1, "the character U+DCFF"),
        ("a: b: c", 1, "mapping values are not allowed here"),
        ("a: [1,\n2", 2, "expected ',' or ']'"),
        ("1: 2", 1, "the key 1 is not text"),
        ("[a]: 2", 1, "is not text"),
        ("~: 2", 1, "the key None is not text"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, f"nested more than {MAX_DEPTH} deep"),
        ("{a: " * 3000, 1, "deep"),
        ("- " * 3000, 1, "deep"),
        ("a: " + "9" * 5000, 1, "a number of 5000 digits"),
        ("x" * (MAX_BYTES + 1), 1, "longer than 256 KiB"),
        ('a: "\\UFFFFFFFF"', 1, "not YAML"),
        ("%YAML 2.0\n---\na: 1", 1, "incompatible"),
    ],
)
def test_everything_else_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, source="my.yaml")
    message = str(caught.value)
    assert message.startswith(f"my.yaml:{line}: ")
    assert words in message
    assert message.isprintable()


def test_the_depth_limit_itself_is_allowed() -> None:
    value = parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, source="f")
    for _ in range(MAX_DEPTH - 1):
        assert isinstance(value, list)
        (value,) = value
    assert value == []


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    doubled = (f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
    bomb = "a: &a [x, x]\n" + "".join(doubled)
    with pytest.raises(RecipeError, match="f:1: anchors"):
        parse(bomb, source="f")


TEXTS = [
    "", "no", "1e-3", "1e3", "1.e5", ".5", "5", "0o7", "null", "~", "a: b", "# x", "- x", "é漢", "a\n\tb\n",
    " x ", "\udcff", "1:30", "2026-01-31", "'", '"', "&a", "*a", "!a", "%", "<<", "true", "x" * 300 + " y",
    "\x07", "\x85", "a\u2028b", "\ufeff", "😀",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_dump_quotes_what_would_be_read_as_something_else(text: str) -> None:
    assert parse(dump({"key": text, "list": [text]}), source="f") == {"key": text, "list": [text]}


def test_dump_leaves_printable_text_as_it_is() -> None:
    assert dump({"path": "Bilder/Gänse"}) == "path: Bilder/Gänse\n"


def test_dump_and_parse_are_inverse_on_random_trees() -> None:
    chance = random.Random(0)

    def number() -> float:
        return chance.random() * 10.0 ** chance.randint(-300, 300)

    def tree(depth: int) -> object:
        kind = chance.randrange(6 if depth else 4)
        if kind == 4:
            return [tree(depth - 1) for _ in range(chance.randrange(4))]
        if kind == 5:
            return {chance.choice(TEXTS): tree(depth - 1) for _ in range(chance.randrange(4))}
        return (chance.choice(TEXTS), number(), chance.getrandbits(63), None)[kind]

    for _ in range(300):
        value = tree(depth=5)
        assert parse(dump(value), source="f") == value
