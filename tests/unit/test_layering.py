"""The house rules that a parser can check: imports run downwards, Ray lives in one folder, files stay readable."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = "onceedit_ray"
# From the bottom up. A module may import its own part and those of lower lines, never a neighbour on its line.
LAYERS = (
    (
        "",
        "config",
        "digest",
        "errors",
        "extras",
        "files",
        "home",
        "listing",
        "location",
        "progress",
        "registry",
        "results",
        "threads",
        "validation",
    ),
    ("knowledge", "starter"),
    ("models",),
    ("alignment", "reader"),
    ("fusion",),
    ("editing", "baselines", "evaluation"),
    ("living",),
    ("serving", "comparison"),
    ("cluster", "playground", "api"),
    ("demo", "run_check"),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {part: height for height, parts in enumerate(LAYERS) for part in parts}
RAY_PART = "cluster"
MAX_LINES = 400
# The only names of files of the package that several folders have: Python's own, the commands of `onceedit` that a part
# adds, and the errors of a part.
SHARED_NAMES = {"__init__", "command", "errors"}
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}
CODE_FOLDERS = (PACKAGE, "jobs", "deployments", "benchmarks", "examples", "scripts", "tests")


def modules(root: Path, folder: str) -> list[Path]:
    """The Python files under `root/folder`, relative to `root`."""
    return sorted(path.relative_to(root) for path in (root / folder).rglob("*.py"))


@functools.cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, which several tests read."""
    return ast.parse(file.read_text(encoding="utf-8"))


def part_of(dotted: str) -> str:
    """The part a dotted module name belongs to: `onceedit_ray.fusion.gate` is `fusion`, `onceedit_ray` is ``."""
    return [*dotted.split("."), ""][1]


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that the module at `path` imports, at module level or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            here = ".".join(path.parts[: -node.level]) if node.level else ""
            module = ".".join(name for name in (here, node.module) if name)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def violations(root: Path) -> list[str]:
    """The imports of `onceedit_ray` under `root` that its layers do not allow, one line each."""
    found = []
    for path in modules(root, PACKAGE):
        part = part_of(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        if part not in LAYER_OF:
            found.append(f"{path}: '{part}' has no layer; give it one in LAYERS")
            continue
        for line, name in imported(parsed(root / path), path):
            top = name.split(".")[0]
            if top == "ray" and part != RAY_PART:
                found.append(f"{path}:{line}: imports {name}; only {PACKAGE}/{RAY_PART} may")
            if top != PACKAGE:
                continue
            target = part_of(name) if part_of(name) in LAYER_OF else ""
            bottom = LAYER_OF[part] == LAYER_OF[target] == 0
            if target != part and not bottom and LAYER_OF[target] >= LAYER_OF[part]:
                found.append(f"{path}:{line}: {part or PACKAGE} imports {target}, which is not below it")
    return found


def imports_of(root: Path) -> dict[str, set[str]]:
    """Every module of the code folders under `root`, and those of them that it imports, for its types too."""
    files = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
        for folder in CODE_FOLDERS
        for path in modules(root, folder)
    }
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for _, name in imported(parsed(root / path), path):
            found = name if name in files else name.rpartition(".")[0]
            if found in files and found != module:
                graph[module].add(found)
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of modules in which each reaches every other one by imports (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_modules: list[str] = []
    found = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        open_modules.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
            if other in open_modules:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            start = open_modules.index(module)
            if len(open_modules) - start > 1:
                found.append(set(open_modules[start:]))
            del open_modules[start:]

    for module in graph:
        if module not in order:
            visit(module)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = imports_of(ROOT)
    assert "onceedit_ray.fusion.speculative" in graph["onceedit_ray.fusion.decoder"], "imports are not found any more"
    assert circles(graph) == []


def test_a_circle_is_found_whatever_it_is_made_of(tmp_path: Path) -> None:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("def f():\n    from onceedit_ray.b import g")
    (folder / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .c import h")
    (folder / "c.py").write_text("import onceedit_ray.a\nfrom onceedit_ray import d")
    (folder / "d.py").write_text("")
    assert circles(imports_of(tmp_path)) == [{f"{PACKAGE}.{name}" for name in "abc"}]


def test_imports_run_downwards_and_ray_stays_in_cluster() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("models/a.py", "from onceedit_ray.fusion.gate import gate", "models imports fusion"),
        ("models/a.py", "from ..fusion import gate", "models imports fusion"),
        ("models/a.py", "def f():\n    from onceedit_ray import cluster", "models imports cluster"),
        ("editing/a.py", "import onceedit_ray.evaluation.metrics", "editing imports evaluation"),
        ("config.py", "from onceedit_ray.knowledge import edit", "config imports knowledge"),
        ("fusion/a.py", "def f():\n    import ray.util", "imports ray.util"),
        ("stuff/a.py", "", "'stuff' has no layer"),
    ],
)
def test_a_wrong_import_is_named(tmp_path: Path, path: str, source: str, said: str) -> None:
    file = tmp_path / PACKAGE / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert [said in line for line in violations(tmp_path)] == [True]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cluster/a.py", "import ray\nfrom onceedit_ray.fusion import draft\nfrom onceedit_ray.cluster import b"),
        ("fusion/a.py", "from . import b\nfrom ..models import c\nfrom onceedit_ray import __version__"),
        ("config.py", "from onceedit_ray.errors import ConfigError"),
        ("cli.py", "from onceedit_ray.cluster import host"),
        ("models/a.py", "import raytracing"),
    ],
)
def test_a_right_import_passes(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / PACKAGE / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert violations(tmp_path) == []


def test_no_test_module_is_imported() -> None:
    """Fixtures stand in `conftest.py`; what several test modules call stands in a module with a name of its own."""
    found = [
        f"{path}:{line}: imports {name}"
        for path in modules(ROOT, "tests")
        for line, name in imported(parsed(ROOT / path), path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split(".")[:-1])
    ]
    assert found == []


def test_every_module_says_what_it_does() -> None:
    silent = []
    for path in modules(ROOT, PACKAGE):
        tree = parsed(ROOT / path)
        if tree.body and not ast.get_docstring(tree):
            silent.append(str(path))
    assert silent == [], "modules without a docstring"


def test_files_stay_short_and_have_a_subject() -> None:
    files = [path for folder in CODE_FOLDERS for path in modules(ROOT, folder)]
    long = [str(path) for path in files if len((ROOT / path).read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    vague = [str(path) for path in files if VAGUE_NAMES & set(path.stem.split("_"))]
    assert long == [], f"files over {MAX_LINES} lines: one idea each"
    assert vague == [], "files named after no idea"


def shared_names(root: Path) -> tuple[set[str], set[str]]:
    """The names that several files of `onceedit_ray` under `root` have, and those that several classes have."""
    files = Counter(path.stem for path in modules(root, PACKAGE))
    classes = Counter(
        node.name
        for path in modules(root, PACKAGE)
        for node in ast.walk(parsed(root / path))
        if isinstance(node, ast.ClassDef)
    )
    return {name for name, count in files.items() if count > 1}, {name for name, count in classes.items() if count > 1}


def test_no_two_files_and_no_two_classes_share_a_name() -> None:
    files, classes = shared_names(ROOT)
    assert files == SHARED_NAMES, "name each file after its own idea"
    assert classes == set(), "name each class after its own idea"


def test_a_shared_name_is_found(tmp_path: Path) -> None:
    for folder in ("models", "fusion"):
        (tmp_path / PACKAGE / folder).mkdir(parents=True)
        (tmp_path / PACKAGE / folder / "trace.py").write_text("class Trace: ...\nclass _Part: ...")
    (tmp_path / PACKAGE / "fusion" / "draft.py").write_text("class Draft: ...")
    assert shared_names(tmp_path) == ({"trace"}, {"Trace", "_Part"})
