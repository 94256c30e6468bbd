"""Images arrive on the device in order, whatever their sizes, and the thread that packs them always ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from synthetic_sources import same, unpacked

from cnn_tl.training.sources.staging import BLOCKS, Pixels, Staging

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def images(count: int, seed: int = 0) -> list[Pixels]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (*draw.integers(1, 40, 2), 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("device", DEVICES)
def test_images_come_in_order_also_in_more_groups_than_blocks(device: str) -> None:
    staging = Staging(torch.device(device))
    for epoch in range(2):  # the blocks are used again
        groups = [images(1 + number % 5, seed=100 * epoch + number) for number in range(4 * BLOCKS)]
        with staging.ahead(groups) as steps:
            for number, (loaded, group) in enumerate(zip(steps, groups, strict=True)):
                assert same(unpacked(loaded), group)
                if number % 2:
                    loaded.release()
                    loaded.release()  # once is enough


@pytest.mark.parametrize("device", DEVICES)
def test_a_block_is_filled_again_only_after_its_release(device: str) -> None:
    """Every block but the one in use is filled meanwhile."""
    staging, asked = Staging(torch.device(device)), threading.Semaphore(0)
    groups = [images(3, seed=number) for number in range(3 * BLOCKS)]

    def given() -> Iterator[list[Pixels]]:
        for group in groups:
            asked.release()
            yield group

    with staging.ahead(given()) as steps:
        first = next(steps)
        for _ in range(BLOCKS + 1):  # the last of them finds no free block
            assert asked.acquire(timeout=60)
        assert not asked.acquire(timeout=0.05)
        assert same(unpacked(first), groups[0])
        first.release()
        assert asked.acquire(timeout=60)


def test_an_error_comes_in_its_place_and_ends_the_thread() -> None:
    def failing() -> Iterator[list[Pixels]]:
        yield images(2)
        raise ValueError("broken")

    before = threading.active_count()
    with Staging(torch.device("cpu")).ahead(failing()) as steps:
        assert same(unpacked(next(steps)), images(2))
        with pytest.raises(ValueError, match="broken"):
            next(steps)
    assert threading.active_count() == before


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_the_thread_ends_when_steps_are_left_early(taken: int) -> None:
    before = threading.active_count()
    staging = Staging(torch.device("cpu"))
    with staging.ahead(images(2, seed=number) for number in range(100)) as steps:
        for _ in range(taken):
            next(steps)
    assert threading.active_count() == before
    with staging.ahead([images(3)]) as steps:
        assert [same(unpacked(loaded), images(3)) for loaded in steps] == [True]


@pytest.mark.gpu
def test_a_block_is_not_overwritten_while_a_kernel_still_reads_it() -> None:
    """Work that takes the device long lies between the release of a block and its reading."""
    device = torch.device("cuda")
    staging, slow = Staging(device), torch.ones(4096, 4096, device=device)
    groups = [[np.full((200, 200, 3), number, np.uint8)] for number in range(20)]
    sums = []
    with staging.ahead(groups) as steps:
        for loaded in steps:
            for _ in range(5):
                slow = slow @ slow * 0
            sums.append(loaded.batch.pixels.long().sum())
            loaded.release()
    assert [int(found) for found in sums] == [3 * 200 * 200 * number for number in range(20)]
