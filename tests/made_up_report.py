"""A made-up report: logits from a seed, thumbnails of one colour."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.metrics.figures import figures_of
from cnn_tl.pages.content import Card, Gallery, ReportPage, Table
from cnn_tl.pages.thumbnail import thumbnail

HOSTILE = ("<script>window.hurt = 1</script>", '"><img src=x onerror="window.hurt=1">', "rtl \u202egnp.exe", "a\nb\x07")


def answers_of(images: int, classes: tuple[str, ...], sure: float = 3.0) -> LabelledAnswers:
    random = np.random.default_rng(images)
    labels_N = np.arange(images) % len(classes)
    logits_NK = random.normal(size=(images, len(classes)))
    logits_NK[np.arange(images), labels_N] += sure
    files = [f"{classes[k]}/photograph {n:06d}.jpg" for n, k in enumerate(labels_N.tolist())]
    return answers_from_logits(logits_NK, labels_N, classes, files)


@functools.cache
def colour(number: int) -> bytes:
    return thumbnail(Image.new("RGB", (64, 48), (number % 256, 80, 160)))


def report_page(images: int = 60, classes: tuple[str, ...] = ("ant", "bee", "cat"), **more: Any) -> ReportPage:
    answers = answers_of(images, classes, more.pop("sure", 1.5))

    def card(n: int) -> Card:
        ranked = tuple((classes[k], float(p)) for k, p in zip(answers.ranked[n], answers.probabilities[n], strict=True))
        of_label = float(answers.of_label[n])
        return Card(answers.files[n], classes[answers.labels[n]], ranked, of_label, colour(n), colour(n + 99))

    wrong = np.flatnonzero(~answers.right).tolist()[:8]
    typical = {
        name: (Gallery("Typical", "", (card(k),)), Gallery("Strangest", "None.", ())) for k, name in enumerate(classes)
    }
    given: dict[str, Any] = {
        "galleries": (Gallery("Worst mistakes", "Why.", tuple(map(card, wrong))), Gallery("Labels", "No label.", ())),
        "class_galleries": typical,
        "tables": (Table("Cost", (("time", "2 s", "on <this> machine"),)),),
        "commands": ("cnn-tl train 'a & b'",),
        "facts": {"mode": "freeze"},
    }
    return ReportPage(
        "runs/<first>", "freeze", ("How good.", "How sure.", "What helps."), figures_of(answers), answers,
        {n: card(n) for n in wrong}, **(given | more),
    )  # fmt: skip
