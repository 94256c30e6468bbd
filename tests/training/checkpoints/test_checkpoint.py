from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cnn_tl.core.errors import ArtefactError
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.checkpoint import Checkpoint
from cnn_tl.training.step import optimizer as optim


def point(step: int) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.full((3,), float(step))}}, {"step": step})


def refuse_warning(text: str) -> None:
    raise AssertionError(text)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path, refuse_warning) is None
    for step in (5, 50, 7_000):
        checkpoint.save_step(tmp_path, step, 3, point(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000050-00003", "step-00007000-00003"]
    found = checkpoint.load_newest(tmp_path, refuse_warning)
    assert found is not None
    assert found.state == {"step": 7_000}
    assert found.tensors["model"]["w"].tolist() == [7_000.0] * 3


def test_what_does_not_fit_is_one_line_and_lack_of_memory_is_not_that(tmp_path: Path) -> None:
    said = pytest.raises(ArtefactError, match=r"do not fit the recipe beside them: .* size mismatch for w")
    with said as refused, checkpoint.reporting_mismatch(tmp_path):
        torch.nn.Linear(2, 2, bias=False).load_state_dict({"weight": torch.zeros(3, 3)})
    assert "\n" not in str(refused.value)
    with pytest.raises(torch.OutOfMemoryError), checkpoint.reporting_mismatch(tmp_path):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_checkpoint_falls_back_with_a_warning(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        checkpoint.save_step(tmp_path, step, 3, point(step))
    victim = tmp_path / "step-00000002-00003" / name
    data = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        victim.write_bytes({"flip": flipped, "truncate": data[:middle], "empty": b""}[damage])
    warnings: list[str] = []
    found = checkpoint.load_newest(tmp_path, warnings.append)
    assert found is not None
    assert found.state == {"step": 1}
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    checkpoint.save_step(tmp_path, 1, 3, point(1))
    (tmp_path / "step-00000001-00003" / "state.json").write_text("{}")
    with pytest.raises(ArtefactError, match="every checkpoint"):
        checkpoint.load_newest(tmp_path, lambda text: None)


def test_optimiser_state_survives_a_file_to_the_bit(tmp_path: Path) -> None:
    def trained(steps: int) -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
        weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        optimizer = torch.optim.AdamW([{"params": [weight], "factor": 2.0, "weight_decay": 0.1}])
        for step in range(steps):
            weight.grad = torch.full((2, 3), 0.1 * step)
            optimizer.step()
        return weight, optimizer

    weight, optimizer = trained(3)
    other_weight, other = trained(0)
    with torch.no_grad():
        other_weight.copy_(weight)
    numbers = optim.state_numbers(optimizer)
    checkpoint.save(tmp_path / "c", Checkpoint({"optimizer": optim.state_tensors(optimizer)}, {"optimizer": numbers}))
    found = checkpoint.load(tmp_path / "c")
    optim.restore(other, found.tensors["optimizer"], found.state["optimizer"])
    for w, o in ((weight, optimizer), (other_weight, other)):
        w.grad = torch.ones(2, 3)
        o.step()
    assert torch.equal(weight, other_weight)
    assert other.param_groups[0]["factor"] == 2.0


def test_a_whole_step_is_not_written_again_and_a_damaged_one_is(tmp_path: Path) -> None:
    checkpoint.save_step(tmp_path, 7, 1, point(1))
    checkpoint.save_step(tmp_path, 7, 1, point(2))
    [folder] = tmp_path.iterdir()
    assert checkpoint.load(folder).state == {"step": 1}
    (folder / "state.json").write_text("{}")
    checkpoint.save_step(tmp_path, 7, 1, point(2))
    assert checkpoint.load(folder).state == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_best_of_an_epoch_that_was_trained_again_is_the_new_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "best-00002", point(1))
    checkpoint.save(tmp_path / "best-00002", point(2))
    assert checkpoint.load(tmp_path / "best-00002").state == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["best-00002"]
