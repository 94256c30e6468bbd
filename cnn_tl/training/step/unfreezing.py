"""The phases of a run: which part of the network trains in which epochs, and a check that the rest did not change.

Gradual unfreezing (Howard and Ruder 2018, ULMFiT, sec. 3.3): the recipe's `model.freeze` first, then the policies of
`model.unfreeze`, one after the other. A phase is a stretch of epochs with one policy.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from cnn_tl.core.errors import UsageError
from cnn_tl.networks import freeze_policies
from cnn_tl.recipe.messages import policy_shown
from cnn_tl.recipe.resolved import TrainedModel


class Phases:
    """The phases of a run, and a record ("receipt") of each.

    Attributes:
        receipts: for each phase that has begun, as plain data: its first epoch, its policy, the digest of the frozen
            tensors at its start, and the parameters of each stage of the network.
    """

    def __init__(self, model: nn.Module, settings: TrainedModel, receipts: list[dict[str, Any]] | None = None) -> None:
        self._model = model
        self._bn = settings.bn
        self._every = settings.unfreeze_every
        self._policies = settings.policies
        self.receipts = receipts if receipts is not None else []
        self._entered: int | None = None
        self._refuse_refreezing()

    @property
    def trains(self) -> set[str]:
        """Names of the parameters that train in some phase."""
        return set().union(*(freeze_policies.trainable(self._model, policy) for policy in self._policies))

    @property
    def gradual(self) -> bool:
        """Whether there is more than one phase."""
        return len(self._policies) > 1

    def phase(self, epoch: int) -> int:
        """Return the phase, counted from 0, of an epoch, counted from 1."""
        return min((epoch - 1) // self._every, len(self._policies) - 1)

    def enter(self, epoch: int) -> bool:
        """Freeze the parameters that the epoch does not train; return whether it begins a phase.

        Raises:
            RuntimeError: a bug of ours: a tensor that was frozen until now has changed.
        """
        phase = self.phase(epoch)
        if phase == self._entered:
            return False
        if self._entered is not None:
            self.verify()
        policy = self._policies[phase]
        freeze_policies.apply(self._model, policy, self._bn)
        self._entered = phase
        if phase < len(self.receipts):  # a resumed run
            self.verify()
            return True
        self.receipts.append(
            {
                "epoch": epoch,
                "policy": policy_shown(policy),
                "frozen_sha256": freeze_policies.frozen_digest(self._model),
                "stages": [asdict(stage) for stage in freeze_policies.receipt(self._model)],
            }
        )
        return True

    def verify(self) -> None:
        """Check that no frozen tensor has changed in the current phase.

        Raises:
            RuntimeError: a bug of ours: one has.
        """
        if freeze_policies.frozen_digest(self._model) != self.receipts[-1]["frozen_sha256"]:
            raise RuntimeError("a frozen tensor has changed")

    def _refuse_refreezing(self) -> None:
        for before, after in zip(self._policies, self._policies[1:], strict=False):
            if missing := freeze_policies.trainable(self._model, before) - freeze_policies.trainable(
                self._model, after
            ):
                raise UsageError(
                    f"model.unfreeze: {policy_shown(after)} would freeze {sorted(missing)[0]} again, which "
                    f"{policy_shown(before)} trains; each step must train all that the one before it does"
                )
