"""The examples of `--help`; a test runs them through the parser."""

from __future__ import annotations

EXAMPLES: dict[str, list[str]] = {
    "": [
        "cnn-tl demo",
        "cnn-tl train photos",
    ],
    "train": [
        "cnn-tl train photos",
        "cnn-tl train photos --mode lp-ft --model resnet50 --epochs 10",
        "cnn-tl train photos --recipe finetune --set train.lr=3e-4 --output runs/a",
        "cnn-tl train --resume --output runs/a",
    ],
    "doctor": [
        "cnn-tl doctor photos",
        "cnn-tl doctor photos --output found --fail-on leaks,labels",
        "cnn-tl doctor runs/photos-freeze --json",
    ],
    "learning-curve": [
        "cnn-tl learning-curve photos",
        "cnn-tl learning-curve photos --model resnet50 --output curve.png",
        "cnn-tl learning-curve runs/photos-freeze --json",
    ],
    "review": [
        "cnn-tl review photos-doctor",
        "cnn-tl review photos-doctor --port 9000 --no-browser",
    ],
    "recommend": [
        "cnn-tl recommend photos",
        "cnn-tl recommend photos --image-sizes 224,288 --budget 10m",
        "cnn-tl recommend photos --models resnet50,mobilenetv2_100=w.safetensors",
    ],
    "lr-find": [
        "cnn-tl lr-find photos",
        "cnn-tl lr-find photos --mode scratch --recipe resnet --output rates.png",
    ],
    "models": [
        "cnn-tl models resnet",
        "cnn-tl models 'convnext_*' --limit 50",
    ],
    "predict": [
        "cnn-tl predict runs/photos-freeze holiday/*.jpg",
        "cnn-tl predict runs/photos-freeze holiday --top 3 --output answers.csv",
        "cnn-tl predict runs/photos-freeze holiday --max-error 5% --unknown 1%",
        "find . -name '*.jpg' -print0 | cnn-tl predict model.onnx - --null",
    ],
    "export": [
        "cnn-tl export runs/photos-freeze",
        "cnn-tl export runs/photos-freeze --precision int8 --output small.onnx",
    ],
    "serve": [
        "cnn-tl serve runs/photos-freeze",
        "cnn-tl serve model.onnx --host 0.0.0.0 --port 80 --max-mb 8",
        "cnn-tl serve runs/photos-freeze --max-error 5% --unknown 1%",
    ],
    "evaluate": [
        "cnn-tl evaluate runs/photos-freeze photos",
        "cnn-tl evaluate runs/photos-freeze others --robustness --limit 500",
        "cnn-tl evaluate runs/photos-freeze photos --unknown-images holiday",
    ],
    "report": [
        "cnn-tl report runs/photos-freeze",
        "cnn-tl report runs/photos-freeze --output photos.html --heat-maps none",
    ],
    "compare": [
        "cnn-tl compare runs/photos-freeze runs/photos-finetune",
        "cnn-tl compare runs/a runs/b runs/c --report compare.html",
    ],
    "explain": [
        "cnn-tl explain runs/photos-freeze holiday/*.jpg",
        "cnn-tl explain runs/photos-freeze photos --method top-patches --channel 7",
    ],
    "inspect": [
        "cnn-tl inspect resnet50 --depth 1",
        "cnn-tl inspect runs/photos-freeze --csv",
        "cnn-tl inspect --input 32x32x3 --conv '10@5x5 s1 p2' --pool '2x2 s2' --fc 10",
    ],
    "convolve": [
        "cnn-tl convolve photo.jpg",
        "cnn-tl convolve photo.jpg --kernel sharpen --padding reflect",
    ],
    "demo": [
        "cnn-tl demo",
        "cnn-tl demo --output somewhere/else",
    ],
    "benchmark": [
        "cnn-tl benchmark",
        "cnn-tl benchmark photos --model resnet50 --images 512",
    ],
    "guide": [
        "cnn-tl guide",
        "cnn-tl guide cache",
    ],
    "recipes": [
        "cnn-tl recipes list",
        "cnn-tl recipes copy finetune mine.yaml",
    ],
    "recipes list": [
        "cnn-tl recipes list",
        "cnn-tl recipes list --json",
    ],
    "recipes show": [
        "cnn-tl recipes show finetune",
        "cnn-tl recipes show lenet5",
    ],
    "recipes copy": [
        "cnn-tl recipes copy finetune",
        "cnn-tl recipes copy finetune mine.yaml",
    ],
    "recipes validate": [
        "cnn-tl recipes validate mine.yaml",
        "cnn-tl recipes validate *.yaml",
    ],
    "recipes schema": [
        "cnn-tl recipes schema",
        "cnn-tl recipes schema > recipe.schema.json",
    ],
    "cache": [
        "cnn-tl cache info",
        "cnn-tl cache prune --max-size 2GB",
    ],
    "cache info": [
        "cnn-tl cache info",
        "cnn-tl cache info --json",
    ],
    "cache clear": [
        "cnn-tl cache clear",
        "CNN_TL_CACHE=/data/cache cnn-tl cache clear",
    ],
    "cache prune": [
        "cnn-tl cache prune --max-size 2GB",
        "cnn-tl cache prune --max-size 500MB",
    ],
}
"""Command -> command lines; none is longer than 76 columns."""
