"""Settings that contradict each other, or have no effect beside another, are refused with what to do."""

from __future__ import annotations

import pytest
from recipe_files import Write, refusal, reread

from cnn_tl.recipe import load


@pytest.mark.parametrize(
    ("content", "wins", "idle"),
    [
        ("augment: {flip: true}", "features.views: 1", "augment"),
        ("features: {views: fresh}", "head.kind: auto", "features.views: fresh"),
        ("mode: finetune\nfeatures: {views: 2}", "mode: finetune and model.freeze: all", "features.views"),
        ("head: {hidden: 64}", "head.kind: auto", "head.hidden"),
        ("head: {kind: adamw, penalty: 1}", "head.kind: adamw", "head.penalty"),
        ("train: {epochs: 3}", "mode: freeze", "train.epochs"),
        ("train: {lr: 1e-3}", "mode: freeze", "train.lr"),
        ("model: {name: googlenet}\ntrain: {aux_weight: 0.3}", "mode: freeze", "train.aux_weight"),
        ("mode: finetune\ntrain: {aux_weight: 0.3}", "model.name: tf_efficientnet_lite0", "train.aux_weight"),
        (
            "mode: finetune\nmodel: {name: googlenet, freeze: last-2}\ntrain: {aux_weight: 0.3}",
            "model.freeze: last-2",
            "train.aux_weight",
        ),
        ("mode: scratch\nmodel: {weights: a.pth}", "mode: scratch", "model.weights"),
        ("head: {kind: prototype, penalty: 1}", "head.kind: prototype", "head.penalty"),
        ("mode: finetune\naugment: {magnitude: 9}", "augment.policy: none", "augment.magnitude"),
        ("mode: scratch\naugment: {policy: trivialaugment, ops: 2}", "augment.policy: trivialaugment", "augment.ops"),
        ("augment: {mixup: 0.2}", "mode: freeze", "augment.mixup"),
        ("features: {views: 8}\naugment: {cutmix: 1}", "mode: freeze", "augment.cutmix"),
        ("mode: finetune\nmodel: {freeze: last-2}\naugment: {cutmix: 1}", "model.freeze: last-2", "augment.cutmix"),
        ("mode: finetune\ntrain: {batch_size: 1}\naugment: {mixup: 1}", "train.batch_size: 1", "augment.mixup"),
        (
            "mode: finetune\nmodel: {freeze: head}\nfeatures: {views: 2}\naugment: {cutmix: 1}",
            "model.freeze: head",
            "augment.cutmix",
        ),
    ],
)
def test_contradictions_say_which_setting_wins(write: Write, content: str, wins: str, idle: str) -> None:
    message = refusal(write(content))
    assert f"{idle} has no effect with {wins}, which wins: " in message
    assert f"remove {idle.split(':')[0]}" in message or "set features.views to a number" in message


def test_only_one_way_of_balancing_classes_is_accepted(write: Write) -> None:
    both = "mode: finetune\ntrain: {class_weights: balanced, sampling: balanced}"
    assert "train.class_weights: balanced contradicts train.sampling: balanced" in refusal(write(both))
    load(write("mode: finetune\ntrain: {class_weights: {ash: 2}, sampling: balanced}"))


@pytest.mark.parametrize(
    "content",
    [
        "mode: finetune\naugment: {mixup: 0.2, cutmix: 1}",
        "mode: scratch\naugment: {mixup: 0.2, cutmix: 1}",
        "mode: finetune\nmodel: {freeze: all}\naugment: {cutmix: 1}",
        "mode: finetune\nmodel: {freeze: last-stage}\nfeatures: {views: fresh}\naugment: {cutmix: 1}",
        "mode: finetune\nmodel: {freeze: last-stage}\nfeatures: {views: fresh}\naugment: {mixup: 0.2}",
        "features: {views: 4}\naugment: {policy: trivialaugment, erasing: 0.25, mixup: 0, cutmix: 0}",
    ],
)
def test_augmentation_that_has_an_effect_is_accepted(write: Write, content: str) -> None:
    made = load(write(content))
    assert reread(made) == made


def test_set_is_checked_against_the_mode_as_a_file_is() -> None:
    assert "train.epochs has no effect" in refusal(None, ["train.epochs=3"])
    assert load(None, ["train.epochs=3"], {"mode": "finetune"}).train.epochs == 3
    assert "model.weights has no effect" in refusal("scratch", [], {"model.weights": "a.pth"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model: {freeze: head, unfreeze: [last-stage, all]}\ntrain: {epochs: 2}", "all would begin with epoch 3, and"),
        (
            "model: {freeze: head, unfreeze: [all], unfreeze_every: 5}",
            "the run has 5; remove it, or set train.epochs: 6, or a smaller model.unfreeze_every",
        ),
        ("model: {freeze: last-2, unfreeze: [last-stage]}", "last-stage would freeze again what last-2 trains"),
        ("model: {freeze: last-stage, unfreeze: [all, head]}", "head would freeze again what all trains"),
        ("model: {bn: sync}\nrun: {device: cpu}", "model.bn: sync contradicts run.device: cpu"),
    ],
)
def test_impossible_phases_and_batchnorm_are_refused_before_a_run(write: Write, content: str, said: str) -> None:
    assert said in refusal(write(f"mode: finetune\n{content}"))


@pytest.mark.parametrize(
    "content",
    [
        "model: {freeze: head, unfreeze: [last-stage, last-2, all]}\ntrain: {epochs: 4}",
        "model: {freeze: norm, unfreeze: [all]}",
        "model: {freeze: [layer4], unfreeze: [last-2]}",
        "model: {freeze: head, unfreeze: [all], unfreeze_every: 9}\ntrain: {steps: 100}",  # the images decide
        "model: {bn: sync}",
    ],
)
def test_possible_phases_are_accepted(write: Write, content: str) -> None:
    made = load(write(f"mode: finetune\n{content}"))
    assert reread(made) == made
