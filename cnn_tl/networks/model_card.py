"""The model card: a bundle's README.md in the Hugging Face hub's format, made only from its config.json."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.core.imports import OLDEST_ONNXRUNTIME

NAME = "README.md"
LICENSE = "unknown"
"""The hub's name for no licence: only the owner of the model and the images can choose one."""
MOST_CLASSES = 100
"""How many classes the card lists at most."""


def text(config: Mapping[str, Any], *, reason: str | None = None) -> str:
    """Return the model card: YAML for the hub, then the text for people.

    Args:
        config: the bundle's config.json; what it does not have is left out.
        reason: why timm and transformers cannot load the model; None if they can.
    """
    import yaml  # prediction with few packages works without it

    front = yaml.safe_dump(_front(config, reason), sort_keys=False, allow_unicode=True)
    sections = [_title(config), _accuracy(config), _data(config), _use(config, reason), _license(config)]
    return f"---\n{front}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _front(config: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    facts = config["cnn_tl"]
    library = "cnn-tl" if reason else "timm"
    front: dict[str, Any] = {
        "license": LICENSE,
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *([] if reason else ["timm", "transformers"]), "cnn-tl"],
        "metrics": ["accuracy"],
    }
    validation, data = facts.get("validation"), facts.get("data")
    if validation and data:
        accuracy = {"type": "accuracy", "value": round(validation["accuracy"], 6), "name": "validation accuracy"}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": printable(data["name"]), "type": "imagefolder", "split": "validation"},
            "metrics": [accuracy],
        }
        front["model-index"] = [{"name": config["architecture"], "results": [result]}]
    return front


def _title(config: Mapping[str, Any]) -> str:
    facts, names = config["cnn_tl"], config["label_names"]
    lines = f"# {config['architecture']}, {counted(len(names), 'class')}\n\nAn image classifier"
    if "mode" in facts:
        lines += f", trained by cnn-tl {facts['version']} in mode `{facts['mode']}`"
    if "weights" in facts:
        lines += f" from: {_plain(facts['weights'])}"
    spec = facts["preprocessing"]
    return lines + f". It takes images of {spec['width']} x {spec['height']} px; preprocessing is in config.json."


def _accuracy(config: Mapping[str, Any]) -> str:
    validation, baseline = config["cnn_tl"].get("validation"), config["cnn_tl"].get("baseline")
    if not validation:
        return ""
    low, high = validation["interval"]
    rows = [
        ("validation accuracy", f"{percent(validation['accuracy'])} of {counted(_images(validation), 'image')}"),
        ("95% interval (Wilson)", f"{percent(low)} - {percent(high)}"),
    ]
    if baseline:
        rows.append((f"majority-class baseline (always {_plain(baseline['class'])})", percent(baseline["accuracy"])))
    for threshold in config["cnn_tl"].get("thresholds") or ():
        name = f"answers that are right {percent(threshold['accuracy'], 0)} of the time"
        share = f"{percent(threshold['share'], 0)} of the images"
        rows.append((name, f"from {percent(threshold['probability'])} on: {share}"))
    return "## Accuracy\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _images(facts: Mapping[str, Any]) -> Any:
    """Return the number of images; older bundles call them pictures."""
    return facts["images"] if "images" in facts else facts["pictures"]


def _data(config: Mapping[str, Any]) -> str:
    data, names = config["cnn_tl"].get("data"), config["label_names"]
    counts = _images(data) if data else {}
    total = ""
    if data:
        train, val = (sum(images[split] for images in counts.values()) for split in ("train", "val"))
        total = f"{_plain(data['name'])}: {counted(train, 'image')} for training, {val:,} for validation."
    if len(names) > MOST_CLASSES:
        return f"## Data\n\n{total or counted(len(names), 'class')}\n\nThe classes are in config.json."
    header = "| class | training | validation |\n|---|---|---|\n" if data else "| class |\n|---|\n"
    rows = []
    for name in names:
        cells = [_plain(name), *([f"{counts[name]['train']:,}", f"{counts[name]['val']:,}"] if data else [])]
        rows.append(f"| {' | '.join(cells)} |")
    return "## Data\n\n" + (f"{total}\n\n" if total else "") + header + "\n".join(rows)


def _use(config: Mapping[str, Any], reason: str | None) -> str:
    export = f"# ONNX with the preprocessing inside, for onnxruntime {OLDEST_ONNXRUNTIME} or newer"
    ours = f"```sh\ncnn-tl predict FOLDER IMAGES...\ncnn-tl export FOLDER    {export}\n```"
    if reason:
        return f"## Use\n\nFOLDER is this folder. timm and transformers cannot load it: {reason}.\n\n{ours}"
    return f"""## Use

FOLDER is this folder.

{ours}

```python
import timm, torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg), is_training=False)
with torch.inference_mode():
    image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
    probabilities = model(transform(image)[None]).softmax(1)
print(model.pretrained_cfg["label_names"], probabilities)
```

```python
from transformers import pipeline

print(pipeline("image-classification", model="FOLDER")("image.jpg"))
```"""


def _license(config: Mapping[str, Any]) -> str:
    known = (config.get("pretrained_cfg") or {}).get("license")
    start = f" The weights that training began with are under: {_plain(known)}." if known else ""
    return (
        f"## Licence\n\nNot given: put yours into `license:` at the top before you publish.{start} "
        "What your images allow, you know."
    )


def _plain(value: object) -> str:
    """Escape text for Markdown, also inside a table."""
    return html.escape(printable(str(value)), quote=False).replace("|", "&#124;").replace("`", "&#96;")
