"""The command that trains on corrected data."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cnn_tl import recipe as recipes
from cnn_tl.doctor.commands import train_command


@pytest.mark.parametrize("name", ["found", "my findings #2", "a: 'b'", "ö"])
def test_the_recipe_names_the_files_whatever_the_folder_is_called(name: str) -> None:
    words = shlex.split(" ".join(train_command(Path("photos"), Path(name))))
    assert words[:3] == ["cnn-tl", "train", "photos"]
    data = recipes.load(None, [words[4], words[6]], {"data.path": words[2]}).data
    assert (data.exclude, data.relabel) == (f"{name}/exclude.txt", f"{name}/relabel.csv")


def test_only_files_that_are_there_are_named() -> None:
    assert train_command(Path("a"), Path("b"), ["relabel.csv"]) == [
        "cnn-tl",
        "train",
        "a",
        *("--set", "data.relabel=b/relabel.csv"),
    ]
