"""Modes `finetune` and `scratch`: train all or part of the network on augmented images.

`plan` counts the trainable parameters and estimates the time; `run` calls the training loop (loop/loop.py).
"""

from __future__ import annotations

from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core.device import Precision, inference_precision
from cnn_tl.core.formatting import counted
from cnn_tl.core.progress import FeaturePlan, Plan
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.devices import describe
from cnn_tl.networks import freeze_policies
from cnn_tl.recipe.messages import policy_shown
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training import estimate
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.estimate import DECODE_SECONDS, Planned
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop import loop, lr_range_test, start
from cnn_tl.training.loop.lr_range_test import RangeTest
from cnn_tl.training.modes.evidence import evidence_of_loop
from cnn_tl.training.outcome import Facts, Outcome, SourceReads
from cnn_tl.training.sources import tiers
from cnn_tl.training.step import precision as precisions
from cnn_tl.training.step.schedule import LoopLength, loop_length

STEP_COST = {"cpu": 3.4, "cuda": 3.5}
"""Kind of device -> cost of a training step in forward passes. On two cores tf_efficientnet_lite0 ran 64 img/s forward
and 18.8 in a loop; on an H100 resnet50 ran 12,800 img/s forward, and 3,200 to 4,000 in steps of 32 to 256."""

MEASURED_BATCH = 4
"""Images in the forward pass that is timed; on CUDA as many as the engine takes, whose kernels are needed anyway."""

VIEW_SECONDS = 0.002
"""One view of a cached image on one thread: read, verify, crop and jitter."""


def plan(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork) -> Planned[Precision]:
    """Choose the precision and estimate the time; a plan that writes nothing decodes every image once."""
    if not run.writes:
        dataset.check_images(keep=False)
    elif network.device.type == "cuda":  # its kernels are chosen meanwhile; on a CPU this would disturb measurements
        dataset.begin_decoding()
    return plan_loop(run, dataset, network)


def run(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork, precision: Precision) -> Outcome:
    """Train; raises the errors of `loop.train`."""
    trained = loop.train(run, dataset, network, precision)
    evidence = run.world.first(lambda: evidence_of_trained(run, dataset, trained))
    return Outcome(trained.logits.numpy(), Facts(loop=trained.facts), evidence=evidence)


def evidence_of_trained(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], trained: loop.Trained) -> Evidence:
    """Return the evidence of the kept weights; `lp_ft` uses this too."""
    features_ND = None if trained.features is None else trained.features.numpy()
    return evidence_of_loop(trained.logits.numpy(), features_ND, dataset.manifest.of("val"), seed=run.recipe.seed)


def find_lr(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork) -> RangeTest:
    """Run the learning-rate range test on the first steps of the run; the model stays as it was.

    Raises:
        The errors of `loop.train`.
    """
    return loop.find_lr(run, dataset, network, precisions.loop_precision(run, network))


def plan_loop(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork) -> Planned[Precision]:
    """Plan the loop without reading any image; `lp_ft` uses this too."""
    model, settings = network.model, run.recipe.model
    freeze_policies.apply(model, settings.freeze, settings.bn)
    trainable, total = freeze_policies.count_parameters(model)
    images, length = _kept_images(dataset), loop_length(run, dataset.manifest)
    precision = precisions.loop_precision(run, network)
    shown = Plan(
        **estimate.description(run, dataset, network),
        trainable=trainable,
        total=total,
        device=describe(network.device),
        precision=precision,
        schedule=_schedule(run, length),
        phases=_phases(run, length),
        features=None,
        images=images,
        sources=_sources(dataset, network),
        seconds=_seconds(run, dataset, network, precision, length, images),
    )
    return Planned(shown, precision)


def _kept_images(dataset: Dataset[LoopRecipe]) -> FeaturePlan | None:
    if not dataset.images.are_kept:
        return None
    images = dataset.manifest.of("train") + dataset.manifest.of("val")
    lacking = dataset.images.lacking(images)
    return FeaturePlan(len(lacking), len(images) - len(lacking), dataset.images.expected_bytes(lacking))


def _sources(dataset: Dataset[LoopRecipe], network: LazyNetwork) -> str | None:
    run, images = dataset.run, dataset.manifest.of("train")
    if not tiers.draws_on_device(run, network.device):
        return None
    nbytes = dataset.images.expected_source_bytes(images)
    tier = tiers.expected_tier(run, dataset.images, nbytes, network.device)
    return f"drawn on the device from images {SourceReads(tier, nbytes)}"


def _schedule(run: Run[LoopRecipe], length: LoopLength) -> str:
    settings = run.recipe.train
    epochs = f"{counted(settings.length.count, 'epoch')}, " if settings.length.unit == "epochs" else ""
    rate = "learning rate by a range test" if settings.lr == "auto" else f"peak learning rate {settings.lr:g}"
    return f"{epochs}{counted(length.steps, 'step')} of up to {run.batch_size}, {rate}"


def _phases(run: Run[LoopRecipe], length: LoopLength) -> str | None:
    """Return what trains in which epochs, such as "head (epoch 1), last-stage (2), all (3-5)"; None if one phase."""
    model = run.recipe.model
    if not model.unfreeze:
        return None
    every, policies = model.unfreeze_every, model.policies
    phases = []
    for number, policy in enumerate(policies):
        first = number * every + 1
        last = length.epochs if number == len(policies) - 1 else first + every - 1
        word = "" if number else "epoch " if first == last else "epochs "
        phases.append(f"{policy_shown(policy)} ({word}{first if first == last else f'{first}-{last}'})")
    return ", ".join(phases)


def _seconds(
    run: Run[LoopRecipe],
    dataset: Dataset[LoopRecipe],
    network: LazyNetwork,
    precision: Precision,
    length: LoopLength,
    kept: FeaturePlan | None,
) -> float:
    train, val = len(dataset.manifest.of("train")), len(dataset.manifest.of("val"))
    decoding = DECODE_SECONDS / run.parallel_reads
    each = decoding if kept is None else VIEW_SECONDS / run.parallel_reads
    step, forward = _seconds_of_an_image(run, network, precision, each, is_decoded=kept is None)
    before = (train + val if kept is None else kept.computed) * decoding
    validations = length.epochs + 1  # the kept weights are validated once more
    if run.recipe.fits_head:
        validations += 1
        images, num_features = min(train, start.AT_MOST), int(network.model.num_features)  # type: ignore[arg-type]
        before += images * forward
        before += estimate.fit_seconds("auto", images, 1, num_features, len(dataset.manifest.classes))
    passed = train * length.steps / length.steps_per_epoch
    if run.recipe.train.lr == "auto":
        passed += lr_range_test.STEPS * min(run.batch_size, train)
    return network.build().loading_seconds + before + passed * step + validations * val * forward


def _seconds_of_an_image(
    run: Run[LoopRecipe], network: LazyNetwork, precision: Precision, reading: float, *, is_decoded: bool
) -> tuple[float, float]:
    """Return the seconds that an image takes in a training step, and in validation.

    On a CPU the threads that read need the cores of the step. A GPU works beside them, and draws the views of kept
    images itself, in a small share of the time of a step.

    Args:
        reading: seconds of the threads for an image.
        is_decoded: it is decoded in each epoch.
    """
    device = network.device
    images = MEASURED_BATCH if device.type != "cuda" else cuda_batch_size(network.info.preprocessing)
    exact = inference_precision(device, run.recipe.run.precision)
    measured = {each: estimate.seconds_per_image(network, each, images) for each in dict.fromkeys([precision, exact])}
    step = measured[precision] * STEP_COST.get(device.type, STEP_COST["cpu"])
    if device.type == "cpu":
        graph = network.remembered.graph if network.info.num_features else None
        forward = measured[exact] if graph is None else estimate.onnx_seconds_per_image(network, graph)
        return step + reading, max(forward, reading)
    if tiers.draws_on_device(run, device) and not is_decoded:
        return step, measured[exact]
    return max(step, reading), max(measured[exact], reading)
