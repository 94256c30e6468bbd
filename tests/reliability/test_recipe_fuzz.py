"""Mutated recipe files are read or refused with one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from cnn_tl import recipe
from cnn_tl.core.choices import Mode
from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe.settings import SECTIONS

TOKENS = [
    b"\t", b"\0", b"\xff", b"\r", b"\xef\xbb\xbf", b"\xc2\x85", b"&a ", b"*a",
    b"!!python/name:os.system ",
    b"---\n", b"...\n", b"%YAML 9.9\n", b"<<: ", b": ", b"- ", b"? ", b"| \n", b"> \n", b"[", b"]", b"{",
    b"}", b"'", b'"', b"\\", b"#", b"@", b"`", b"[" * 50, b'"\\UFFFFFFFF"', b"''",
    b"1e-3", b".nan", b"-.inf", b"1e999", b"9" * 50, b"0x1F", b"1:30", b"no", b"null", b"true", b"-1", b"0",
    b"{lr: 1}", b"train.lr: 1\n", b"train:\n", b"lr: 1\n", b"  lr: 1\n", b"mode: scratch\n",
]  # fmt: skip


def mutated(original: bytes, chance: random.Random) -> bytes:
    """Change one to five places: flip, cut, repeat, insert or replace."""
    data = bytearray(original)
    for _ in range(chance.randint(1, 5)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice([0, 1, 1, 3, 10, 40]))
        match chance.randrange(5):
            case 0 if start < len(data):
                data[start] ^= 1 << chance.randrange(8)
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end] * chance.randint(1, 20)
            case 3:
                data[start:start] = chance.choice(TOKENS)
            case _:
                data[start:end] = chance.choice(TOKENS)
    return bytes(data)


def fuzz(path: Path, rounds: int) -> None:
    chance = random.Random(20)
    originals = [recipe.text(name).encode() for name in recipe.names()]
    originals.append(recipe.to_yaml(recipe.load("finetune", [], {"data.path": "images"})).encode())
    refused = 0
    for _ in range(rounds):
        data = mutated(chance.choice(originals), chance)
        path.write_bytes(data)
        try:
            made = recipe.load(path)
        except RecipeError as error:
            refused += 1
            message = str(error)
            assert message.isprintable(), data
            assert message.startswith(str(path)), data
            assert len(message) < len(str(path)) + 300, data
        else:
            path.write_text(recipe.to_yaml(made), "utf-8")
            assert recipe.load(path) == made, data
    assert rounds * 0.2 < refused < rounds * 0.98, "the mutations hit neither everything nor nothing"


def test_mutated_recipes(tmp_path: Path) -> None:
    fuzz(tmp_path / "r.yaml", 300)


@pytest.mark.soak
def test_mutated_recipes_long(tmp_path: Path) -> None:
    fuzz(tmp_path / "r.yaml", 10_000)


VALUES: dict[str, list[Any]] = {
    "model.name": ["googlenet", "resnet18"],
    "model.freeze": ["head", "last-2", "norm", "all", ["layer4", "*.bn1"]],
    "model.unfreeze": [["last-stage", "all"], ["all"]],
    "model.unfreeze_every": [1, 9],
    "model.bn": ["train", "eval", "sync"],
    "features.views": [1, 8, "fresh"],
    "head.class_weights": ["balanced", {"ash": 2}],
    "train.lr": ["auto", 0.1],
    "train.class_weights": ["balanced", {"ash": 2}],
    "augment.color": [0],
    "run.track": [["wandb"]],
}
"""Values for keys that not every value of `ANY` suits, or that decide about others."""

ANY = [1, 3, 0.5, 0, "x", False]


def values_of(key: str) -> list[Any]:
    """Return some values of a key, most of which it takes."""
    section, _, leaf = key.partition(".")
    if key == "seed":
        return ANY
    kinds = get_args(SECTIONS[section].model_fields[leaf].annotation)
    words = [word for kind in kinds for word in (get_args(kind) or [kind]) if isinstance(word, str)]
    return VALUES.get(key) or words or ANY


def settings_alone() -> Iterator[dict[str, Any]]:
    """Yield each value of each key in each mode."""
    for mode in get_args(Mode):
        for key in recipe.KEYS[1:]:
            section, _, leaf = key.partition(".")
            yield from ({"mode": mode, section: {leaf: value} if leaf else value} for value in values_of(key))


def settings_at_random(count: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(7)
    for _ in range(count):
        tree: dict[str, Any] = {"mode": chance.choice(get_args(Mode))}
        for key in chance.sample(recipe.KEYS[2:], chance.choice([2, 3, 4])):
            section, _, leaf = key.partition(".")
            tree.setdefault(section, {})[leaf] = chance.choice(values_of(key))
        yield tree


def test_settings_are_resolved_or_refused() -> None:
    """Whatever the rules let through has a place on the type of its mode, and reads back equal from a run folder."""
    resolved = refused = 0
    for tree in (*settings_alone(), *settings_at_random(200)):
        try:
            made = recipe.load(tree)
        except RecipeError:
            refused += 1
            continue
        resolved += 1
        assert recipe.load(recipe.yaml.parse(recipe.to_yaml(made), source="recipe.yaml")) == made, tree
    assert min(resolved, refused) > 300
