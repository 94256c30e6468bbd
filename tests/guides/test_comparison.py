"""What finds the commands of a document, and says where its output departs from the real one, can say no."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import blocks_of, commands_of, difference, masked

DOCUMENT = """\
# Title

<!-- not run: it takes an hour -->
```sh
cnn-tl train big
```

<!-- output: of another machine -->

<!-- exit: 3 -->
```console
$ cnn-tl predict run \\
    a.jpg \\
>   b.jpg
 row
$ ls
```

Prose takes a mark away:

<!-- file: mine.yaml -->
no
- item

  ```yaml
  mode: freeze
  run:
    seed: 1
  ```
"""


def test_blocks_have_their_marks_and_commands_their_output(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(DOCUMENT)
    shell, console, recipe = blocks_of(tmp_path / "a.md")
    assert (shell.language, shell.line, shell.marks) == ("sh", 4, {"not run": "it takes an hour"})
    assert (console.is_next, recipe.is_next) == (True, False)
    assert console.marks == {"output": "of another machine", "exit": "3"}
    assert list(commands_of(console)) == [("cnn-tl predict run a.jpg b.jpg", [" row"]), ("ls", [])]
    assert (recipe.text, recipe.marks) == ("mode: freeze\nrun:\n  seed: 1\n", {})


@pytest.mark.parametrize("text", ["```sh\nls\n", "<!-- skipped: why -->\n"])
def test_a_block_without_an_end_and_an_unknown_mark_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.md").write_text(text)
    with pytest.raises(AssertionError, match=r"a\.md:1: "):
        blocks_of(tmp_path / "a.md")


def test_numbers_times_sizes_rules_and_digests_differ_between_machines() -> None:
    assert masked(" time      1 min 3 s  13.4 MB ─── 8.1e-06 ") == masked(" time  0.31 s  820 kB ─ 0 ")
    assert masked("sha256 d610448fb810, bf16") == masked("sha256 0123456789ab, fp32")
    assert masked("3 classes") != masked("3 images")


SHOWN = [" plan", " ────", " mode    freeze", " time    5.2 s", "", "next:", "  a b c"]
PRINTED = [*SHOWN[:3], "features: 48/300  12.6 img/s", *SHOWN[3:]]


@pytest.mark.parametrize(
    "shown",
    [
        SHOWN,
        ["plan", "mode freeze", "time 9 min 1 s", "next:", "a b c"],
        [" ...", " time 1 s", " ..."],
        ["plan", " ..."],
        ["plan", " ...", "a", "  b c"],
    ],
)
def test_the_same_but_for_numbers(shown: list[str]) -> None:
    assert difference(shown, PRINTED) is None


@pytest.mark.parametrize(
    ("shown", "fault"),
    [
        (["plan", "mode finetune"], "shown: mode finetune\nprinted: mode freeze"),
        (["plan", "mode freeze"], "printed and not shown: time #"),
        ([" ...", "nothing like it"], "shown: nothing like it\nprinted: plan"),
        ([" ...", "a b"], "printed and not shown|shown: a b\nprinted: a b c"),
        ([*SHOWN, "more"], r"shown: more\nprinted: \(nothing more\)"),
        ([" ...", "mode freeze", " ...", "plan", " ..."], "shown: plan"),
    ],
)
def test_anything_else_is_a_fault(shown: list[str], fault: str) -> None:
    said = difference(shown, PRINTED)
    assert said is not None
    assert re.match(fault, said)
