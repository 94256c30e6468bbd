"""Imports run one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cnn_tl

ROOT = Path(cnn_tl.__file__).parent
FLOORS = [
    {"core", "guides"},
    {"abstention"},
    {"recipe", "data", "networks", "cache", "metrics"},
    {"features", "heads", "anatomy", "tracking", "plots", "pages"},
    {"training", "inference"},
    {"evaluating", "explaining", "exporting"},
    {"reporting"},
    {"doctor"},
    {"advising"},
    {"serving"},
    {"cli"},
    {"api"},
]
ABOVE_ALL = {"__init__", "__main__"}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "onnx", "onnxruntime", "onnxscript")
HEAVY += ("matplotlib", "tensorboard", "mlflow", "wandb", "pyarrow")


def room_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else "__init__"


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imports_of(path: Path) -> set[str]:
    """Return the names under cnn_tl that a file imports anywhere, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("cnn_tl.") and name != "cnn_tl.__version__"}


def test_every_module_has_a_floor() -> None:
    rooms = {path.parts[0].removesuffix(".py") for path in MODULES} - ABOVE_ALL
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem not in ABOVE_ALL or len(p.parts) > 1], ids=str)
def test_imports_go_down_or_stay_in_the_room(path: Path) -> None:
    room = path.parts[0].removesuffix(".py")
    for name in imports_of(path):
        other = room_of(name)
        ground = floor_of(room) == floor_of(other) == 0
        assert other == room or floor_of(other) < floor_of(room) or ground, f"{path} imports {name}"


@pytest.mark.parametrize("package", sorted(ROOT.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_every_package_says_what_lives_there(package: Path) -> None:
    assert len((ast.get_docstring(ast.parse(package.read_text("utf-8"))) or "").split()) >= 8, package


def test_tests_mirror_the_rooms() -> None:
    tests = Path(__file__).parent
    rooms = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")} - {Path()}
    assert [room for room in sorted(rooms - {Path("gpu"), Path("reliability")}) if not (ROOT / room).is_dir()] == []


def test_no_import_cycles() -> None:
    graph = {}
    for path in MODULES:
        name = ".".join(("cnn_tl", *path.with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = imports_of(path)
    graph.pop("cnn_tl")
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in graph[name]:
                module = other if other in graph else other.rpartition(".")[0]
                if module in graph:
                    visit(module, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def heavy_modules_after(code: str) -> list[str]:
    check = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import cnn_tl; [cnn_tl.train, cnn_tl.predict, cnn_tl.load, cnn_tl.inspect, cnn_tl.explain]; cnn_tl.Recipe()",
        "import cnn_tl.cli, cnn_tl.cli.app",
        "import cnn_tl.recipe; cnn_tl.recipe.load('freeze')",
        "import cnn_tl.data.folders.scan, cnn_tl.data.views.transforms",
        "import cnn_tl.networks.onnx_model",
        "import cnn_tl.serving.routes, cnn_tl.serving.server",
        "from cnn_tl.cli import app; assert app.run(['--help']) == 0",
        "from cnn_tl.cli import app; assert app.run(['train', '--help']) == 0",
        "from cnn_tl.cli import app; assert app.run(['recipes', 'list']) == 0",
        "from cnn_tl.cli import app; assert app.run(['train', '--set', 'no.such=1']) == 2",
        "from cnn_tl.cli import app; assert app.run(['inspect', '--input', '9x9', '--conv', '3x3', '--fc', '2']) == 0",
    ],
)
def test_loads_nothing_heavy(code: str) -> None:
    assert [name for name in heavy_modules_after(code) if name != "onnxruntime" or "onnx_model" not in code] == []
