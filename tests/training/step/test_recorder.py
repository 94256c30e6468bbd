"""A step recorded as a CUDA graph computes what the step itself computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cnn_tl.recipe.defaults import MODE_TRAIN
from cnn_tl.training.step import recorder
from cnn_tl.training.step.gradients import Gradients
from cnn_tl.training.step.loss import make_loss, targets
from cnn_tl.training.step.recorder import Held
from cnn_tl.training.step.update import Update

K = 3


class Small(nn.Module):
    """BatchNorm and dropout: what a recorded step could get wrong."""

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__()
        self.waits = waits
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, K)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features_NC = self.body(x_NCHW).mean((2, 3))
        if self.waits and features_NC.sum().item() > 1e9:
            features_NC = -features_NC
        return self.head(features_NC)  # type: ignore[no-any-return]


def train(*, recorded: bool, waits: bool = False, notes: list[str] | None = None) -> tuple[list[float], nn.Module]:
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = Small(waits=waits).to(device).train()
    loss = make_loss(MODE_TRAIN["finetune"], None)
    note = notes.append if notes is not None else pytest.fail
    gradients = Gradients(model, loss, device, "fp32", 0, 9, note, recorded=recorded)
    gradients.use(model)
    update = Update(
        model, torch.optim.AdamW([{"params": model.parameters(), "factor": 1.0}], fused=True), gradients, 1.0
    )
    update.set_lr(1e-2)
    draw, losses = torch.Generator().manual_seed(1), []
    for step in range(24):
        count = 5 if step == 7 else 7 if step % 4 == 3 else 8  # the batches of an epoch differ by one image
        x_NCHW = torch.randn(count, 3, 16, 16, generator=draw).to(device, memory_format=torch.channels_last)
        labels_N = torch.randint(K, (count,), generator=draw).to(device)
        losses.append(update(x_NCHW, targets(labels_N, K, 0.1), step)[0])
    found = gradients._recorder
    assert found is None or len(found._recordings) == (0 if notes else 2)
    return torch.stack(losses).tolist(), model


@pytest.mark.gpu
def test_recorded_steps_give_the_same_losses_weights_and_statistics() -> None:
    with torch.random.fork_rng():
        recorded, ours = train(recorded=True)
        expected, theirs = train(recorded=False)
    assert recorded == pytest.approx(expected, rel=1e-4)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert theirs.state_dict()["body.1.num_batches_tracked"] == 24


@pytest.mark.gpu
def test_a_network_that_waits_for_the_gpu_is_not_recorded() -> None:
    notes: list[str] = []
    with torch.random.fork_rng():
        refused, _ = train(recorded=True, waits=True, notes=notes)
        expected, _ = train(recorded=False)
    assert refused == pytest.approx(expected, rel=1e-4)
    assert len(notes) == 1
    assert "waits for the GPU" in notes[0]


@pytest.mark.gpu
def test_a_step_that_takes_much_memory_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MEMORY_SHARE", 0.0)
    notes: list[str] = []
    with torch.random.fork_rng():
        train(recorded=True, notes=notes)
    assert notes == ["steps are not recorded as a CUDA graph: its activations would take too much of the memory"]


def test_buffers_get_their_earlier_values_again() -> None:
    buffers = [torch.arange(3.0), torch.tensor(7), torch.ones(2, 2)]
    held = Held(buffers, [torch.empty_like(buffer) for buffer in buffers])
    held.take()
    for buffer in buffers:
        buffer.zero_()
    held.restore()
    assert [buffer.tolist() for buffer in buffers] == [[0.0, 1.0, 2.0], 7, [[1.0, 1.0], [1.0, 1.0]]]
