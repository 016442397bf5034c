"""The house stays a house: packages in their order, imports only downwards, no circle of files."""

import ast
from pathlib import Path

from tests.support import ROOT

FLOORS = (
    ("errors", "progress"), ("files",), ("results", "distributed"), ("metrics", "config", "clip"), ("data", "loggers"),
    ("features",), ("methods",), ("training",), ("runs",), ("sweeps", "collect"), ("app",), ("__main__",),
)  # fmt: skip
"""From the ground up; what stands on one floor does not know each other, or only to the left."""
ORDER = [name for floor in FLOORS for name in floor]
SRC = ROOT / "src" / "mmadapt"


def module_of(path: Path) -> str:
    return ".".join(("mmadapt", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SRC.rglob("*.py")}


def imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports anywhere, for types and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmadapt":
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "mmadapt"}
    return found - {"mmadapt", module}


IMPORTS = {module: imports(module) for module in MODULES}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_import_is_of_a_module_that_is_there():
    assert not [(module, name) for module, names in IMPORTS.items() for name in names if name not in MODULES]


def test_every_room_has_its_floor_and_no_flat_module_is_new():
    rooms = {path.stem for path in SRC.glob("*.py")} | {
        path.parent.name for path in SRC.glob("*/__init__.py")
    }
    assert rooms == {"__init__", *ORDER}
    assert len(list(SRC.glob("*.py"))) <= 9


def test_imports_run_downwards():
    climbing = [
        f"{module} -> {name}"
        for module, names in IMPORTS.items()
        for name in names
        if module != "mmadapt"
        and room(name) != room(module)
        and ORDER.index(room(name)) > ORDER.index(room(module))
    ]
    assert not climbing


def test_no_files_import_each_other_in_a_circle():
    left = dict(IMPORTS)
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_the_listing_of_methods_is_the_list_of_methods():
    yamls = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    modules = {path.stem for path in (SRC / "methods").glob("*.py")} - {
        "__init__",
        "base",
        "context_base",
        "prompt_base",
        "transfer",
    }
    assert modules == yamls - {"tip_adapter_f"}, "Tip-Adapter-F is in the file of Tip-Adapter"
