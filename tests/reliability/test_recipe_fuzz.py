"""Mutated recipe files are read or refused with one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cnn_tl import recipe
from cnn_tl.core.errors import RecipeError

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
