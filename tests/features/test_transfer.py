"""Buffers are filled again only after the copy out of them; what arrives is what was sent."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cnn_tl.features.transfer import BufferRing, CudaTransfer, HostCopy, Transfer, transfer_of


@dataclass
class Copy:
    """A copy that never ends by itself; `waited` lists the copies that somebody has waited for."""

    number: int
    waited: list[int]

    def synchronize(self) -> None:
        self.waited.append(self.number)


def image(value: int, count: int = 2) -> np.ndarray:
    return np.full((count, 4, 5, 3), value, np.uint8)


def test_a_buffer_is_filled_again_only_after_the_copy_out_of_it() -> None:
    allocated: list[int] = []

    def allocate(nbytes: int) -> torch.Tensor:
        allocated.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)

    ring, waited, held = BufferRing(allocate, count=3), list[int](), []
    for number in range(7):
        buffer, part = ring.filled(image(number))
        assert waited == list(range(max(0, number - 2)))  # the copy of three batches ago, and no later one
        assert part.shape == (2, 4, 5, 3)
        assert np.array_equal(part.numpy(), image(number))
        buffer.copied = Copy(number, waited)
        held.append(part)
    assert allocated == [120] * 3
    assert [int(part[0, 0, 0, 0]) for part in held[-3:]] == [4, 5, 6]  # those on their way are untouched


def test_a_larger_batch_gets_a_larger_buffer_and_a_smaller_one_none() -> None:
    allocated: list[int] = []
    ring = BufferRing(lambda nbytes: allocated.append(nbytes) or torch.empty(nbytes, dtype=torch.uint8), count=1)
    for count in (2, 1, 3, 2):
        _, part = ring.filled(image(count, count))
        assert np.array_equal(part.numpy(), image(count, count))
    assert allocated == [120, 180]


def test_views_that_are_not_contiguous_are_copied_as_they_look() -> None:
    ring = BufferRing(lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    _, part = ring.filled(pixels[::2, ::-1])
    assert np.array_equal(part.numpy(), pixels[::2, ::-1])


def test_only_what_was_begun_is_waited_for() -> None:
    waited: list[int] = []
    on_its_way = torch.arange(3.0)
    arrived = HostCopy(on_its_way, Copy(1, waited)).array()
    on_its_way.zero_()  # torch uses the memory for something else
    assert (waited, arrived.tolist()) == ([1], [0.0, 1.0, 2.0])
    assert HostCopy(torch.arange(3.0)).array().tolist() == [0.0, 1.0, 2.0]


def test_other_devices_than_cuda_copy_at_once() -> None:
    transfer = transfer_of(torch.device("cpu"))
    assert type(transfer) is Transfer
    pixels = image(3)
    assert np.array_equal(transfer.to_device(pixels).numpy(), pixels)
    assert transfer.to_host(torch.ones(2)).ready is None


@pytest.mark.gpu
def test_on_cuda_many_copies_on_their_way_are_all_right() -> None:
    device = torch.device("cuda")
    transfer = transfer_of(device)
    assert isinstance(transfer, CudaTransfer)
    pixels = np.empty((64, 128, 128, 3), np.uint8)
    back = []
    torch.cuda._sleep(10**8)  # the copies are issued long before the sums are computed
    for number in range(20):
        pixels[:] = number  # the same host memory each time
        back.append(transfer.to_host(transfer.to_device(pixels).float().mean(dim=(1, 2, 3))))
    for number, copy in enumerate(back):
        assert copy.array().tolist() == [number] * 64


class Stream:
    """Stands for a CUDA stream; writes into a log that all share."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_event(self, event: Event) -> None:
        self.log.append(f"{self.name} waits for event {event.number}")


class Event:
    """Stands for a CUDA event."""

    count = 0

    def __init__(self, log: list[str]) -> None:
        Event.count += 1
        self.number, self.log = Event.count, log

    def record(self, stream: Stream) -> None:
        self.log.append(f"event {self.number} on {stream.name}")

    def synchronize(self) -> None:
        self.log.append(f"host waits for event {self.number}")


def test_the_order_of_what_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The computation waits for the copy, the host only for what it reads, or before a buffer is filled again."""
    log: list[str] = []
    monkeypatch.setattr(Event, "count", 0)
    computing = Stream("computing", log)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying", log))
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    transfer = CudaTransfer(torch.device("cpu"))
    transfer._ring = BufferRing(lambda nbytes: torch.empty(nbytes, dtype=torch.uint8), count=2)
    for number in range(3):
        arrived = transfer.to_device(image(number))
        assert np.array_equal(arrived.numpy(), image(number))
    told = ["event {} on copying", "computing waits for event {}", "kept for computing"]
    expected = [line.format(number) for number in (1, 2) for line in told]
    expected += ["host waits for event 1", *(line.format(3) for line in told)]
    assert log == expected
    log.clear()
    copy = transfer.to_host(torch.ones(2))
    assert log == ["event 4 on computing"]
    assert copy.array().tolist() == [1, 1]
    assert log[1:] == ["host waits for event 4"]
