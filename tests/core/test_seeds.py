"""Seeds are pure functions of what they are for."""

from __future__ import annotations

from cnn_tl.core.seeds import seed_of


def test_seeds_are_functions_of_every_part() -> None:
    parts = [(0, "view", 1), (0, "view", 2), (1, "view", 1), (0, "step", 1), (0, "view1", ""), (0, "view", "1", "")]
    seeds = [seed_of(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert seeds == [seed_of(*p) for p in parts]
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_name_that_is_no_text_has_a_seed_too_and_those_of_texts_stay_what_they_were() -> None:
    assert seed_of(0, "view", 1, "ash/\udcff0.png") != seed_of(0, "view", 1, "ash/\udcfe0.png")
    assert seed_of(0, "view", 1, "Bäume/日本.png") == 72543800018600893
