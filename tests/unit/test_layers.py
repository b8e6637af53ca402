"""The architecture, executed: which room imports which, how large a room may be, and which library lives where."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import labfs

PRODUCT = Path(labfs.__file__).parent
TESTS = Path(__file__).parents[1]

# room → rooms that it may import; arrows point down only
GROUND = {"backend", "errors"}
LAW: dict[str, set[str]] = {
    "cli": {"daemon", "fuse", "write", "sandbox", "errors"},
    "daemon": {"fuse", "vfs", "tree", "write", "backends", "http", "shared", *GROUND},
    "fuse": {"vfs", "tree", "errors"},
    "fsspec": {"daemon", "vfs", "tree", *GROUND},
    "vfs": {"tree", "write", "read", *GROUND},
    "tree": {"write", "read", *GROUND},
    "write": {"read", *GROUND},
    "read": GROUND,
    "backends": {"http", *GROUND},
    "http": GROUND,
    "shared": GROUND,
    "backend": {"errors"},
    "errors": set(),
    "sandbox": set(),
    "__main__": {"cli"},
}
# library → rooms or modules that may import it
LIBRARIES = {
    "httpx": {"http/client", "http/download", "http/failures", "http/network"},
    "httpx_socks": {"http/network/ways"},
    "python_socks": {"http/network/ways"},
    "pyreqwest": {"http/download", "http/failures", "http/network/ways"},
    "certifi": {"http/network/trust"},
    "trio": {"daemon", "fuse", "fsspec", "vfs", "tree", "write", "read", "http", "backends", "shared"},
    "redis": {"shared/tier"},
    "pyfuse3": {"fuse", "daemon/daemon"},
    "fsspec": {"fsspec/filesystem"},
    "cachetools": {
        "backends/basespace/datasets",
        "fuse/answers",
        "tree/measuring",
        "read",
        "errors/reasons",
        "daemon/notices",
    },
    "xxhash": {"read/digests"},
    "sqlite3": {"tree/remembered"},
    "defusedxml": {"backends/clarity"},
    "click": {"cli"},
    "rich": {"cli/status", "cli/manual/command"},
    "markdown_it": {"cli/manual"},
    "jeepney": {"daemon/notices"},
    "keyring": {"daemon/credentials", "daemon/setup/keeping"},
    "tomlkit": {"daemon/setup/keeping"},
    "platformdirs": {"daemon/config"},
}
VENDORS = ("basespace", "illumina", "redcap", "clarity", "genestack")
MAY_NAME_VENDORS = {"backends", "sandbox", "cli/demo"}
# Of the entries three are no rooms (`__init__`, `__main__`, `py.typed`): twelve rooms, one more for the second door, and
# one for what machines share, which would otherwise bring its store's library into four rooms.
ENTRIES, MODULES, LINES, FUNCTION, TYPICAL = 17, 12, 400, 60, 20  # at most, of each
REASON = "labfs/__init__.py draws which room may import which; change the shape before you change this table"


def modules() -> dict[str, Path]:
    """Return all modules of the product by path, without their ending."""
    found = {}
    for path in sorted(PRODUCT.rglob("*.py")):
        found[str(path.relative_to(PRODUCT).with_suffix("")).removesuffix("/__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Return what a file imports, at its top or within a function, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES_BY_NAME = modules()
IMPORTS = {name: imports(path) for name, path in MODULES_BY_NAME.items()}


def ours(name: str) -> set[str]:
    """Return the modules of labfs that one imports."""
    dotted = {one.removeprefix("labfs.").replace(".", "/") for one in IMPORTS[name] if one.startswith("labfs.")}
    found = {one if one in MODULES_BY_NAME else one.rpartition("/")[0] for one in dotted}
    return {one for one in found if one in MODULES_BY_NAME}


def room(name: str) -> str:
    return name.partition("/")[0]


def is_in(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize("name", [name for name in MODULES_BY_NAME if name != "__init__"])
def test_a_module_imports_only_what_lies_below_it(name: str) -> None:
    assert room(name) in LAW, f"{room(name)} is not in the law; {REASON}"
    assert {room(other) for other in ours(name)} - {room(name)} <= LAW[room(name)], REASON


def test_the_law_is_short_and_every_arrow_of_it_is_used() -> None:
    assert len(LAW) <= ENTRIES
    used = {(room(name), room(other)) for name in MODULES_BY_NAME for other in ours(name)}
    allowed = {(above, below) for above, rooms in LAW.items() for below in rooms}
    assert allowed <= used, f"nobody needs {sorted(allowed - used)}"


def test_a_backend_knows_no_other_system() -> None:
    systems = {name.split("/")[1] for name in MODULES_BY_NAME if name.startswith("backends/") and name.count("/") == 2}
    for name in MODULES_BY_NAME:
        if name.startswith("backends/") and name.count("/") == 2:
            others = {other.split("/")[1] for other in ours(name) if other.startswith("backends/")} & systems
            assert others <= {name.split("/")[1]}, name


def test_no_module_imports_itself_through_others() -> None:
    below: dict[str, set[str]] = {name: ours(name) - {name} for name in MODULES_BY_NAME}
    while free := [name for name, others in below.items() if not others & below.keys()]:
        for name in free:
            del below[name]
    assert not below, f"a cycle is among {sorted(below)}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    for name, found in IMPORTS.items():
        if room(name) != "sandbox" and any(one.split(".")[0] == library for one in found):
            assert is_in(name, LIBRARIES[library]), f"{name} imports {library}"


def test_no_vendor_is_named_above_the_waist() -> None:
    for name, path in MODULES_BY_NAME.items():
        if not is_in(name, MAY_NAME_VENDORS) and path.parent != PRODUCT:
            text = path.read_text().lower()
            for vendor in VENDORS:
                assert vendor not in text, f"{name} names {vendor}"


def test_the_map_names_every_room() -> None:
    named = (labfs.__doc__ or "").split()
    for path in PRODUCT.iterdir():
        if path.is_dir() and not path.name.startswith("__"):
            assert f"{path.name}/" in named, f"the map in labfs/__init__.py does not name {path.name}/"


def test_rooms_stay_small() -> None:
    listed = [path for path in PRODUCT.iterdir() if path.name != "__pycache__"]
    assert len(listed) <= ENTRIES, sorted(path.name for path in listed)
    for folder, count in Counter(path.parent for path in MODULES_BY_NAME.values()).items():
        assert count <= MODULES, f"{folder.relative_to(PRODUCT.parent)} has {count} modules"


def functions(path: Path) -> list[tuple[str, int]]:
    """Return the functions of a file with their lengths in lines."""
    return [
        (node.name, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_and_modules_stay_small() -> None:
    lengths = []
    for name, path in MODULES_BY_NAME.items():
        assert len(path.read_text().splitlines()) <= LINES, f"{name} is too long"
        for function, length in functions(path):
            assert length <= FUNCTION, f"{name}.{function} is too long"
            lengths.append(length)
    assert sorted(lengths)[len(lengths) * 9 // 10] <= TYPICAL


# -- state has one owner ---------------------------------------------------------------------------------

# class → the room or module that alone may write to its attributes
OWNERS = {"tree/node.Node": "tree", "tree/node.Folder": "tree"}
MUTATORS = {"add", "append", "clear", "discard", "insert", "pop", "remove", "setdefault", "update"}


def attributes(name: str) -> set[str]:
    """Return the attributes of a class of the product, as its `__slots__` or its annotations tell them."""
    module, _, called = name.partition(".")
    (found,) = (
        node
        for node in ast.parse(MODULES_BY_NAME[module].read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == called
    )
    slots = [
        node for node in found.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__"
    ]
    if slots:
        return set(ast.literal_eval(slots[0].value))
    return {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def written(node: ast.AST) -> list[ast.expr]:
    """Return what a statement or a call changes."""
    match node:
        case ast.Assign():
            targets = node.targets
        case ast.AugAssign() | ast.AnnAssign():
            targets = [node.target]
        case ast.Delete():
            targets = node.targets
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in MUTATORS:
            targets = [value]
        case _:
            return []
    flat = [e for target in targets for e in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])]
    return [target.value if isinstance(target, ast.Subscript) else target for target in flat]


def is_own(value: ast.expr) -> bool:
    """Whether an attribute is one of the object's own that the function belongs to."""
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


@pytest.mark.parametrize("name", OWNERS)
def test_nobody_else_writes_to_what_has_an_owner(name: str) -> None:
    shared = attributes(name) - {"__weakref__"}
    assert shared
    for module, path in MODULES_BY_NAME.items():
        if is_in(module, {OWNERS[name], "sandbox", "backends", "http"}):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for target in written(node):
                if isinstance(target, ast.Attribute) and target.attr in shared and not is_own(target.value):
                    pytest.fail(f"{module}:{target.lineno} writes {ast.unparse(target)}; {name} has its verbs for that")


def test_asserts_that_something_is_there_are_rare() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, path in MODULES_BY_NAME.items()
        if not is_in(name, {"sandbox", "backends", "cli"})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and ast.unparse(node.test).endswith("is not None")
    ]
    assert len(found) <= 8, found


def test_nobody_writes_to_a_note_and_it_is_no_dictionary() -> None:
    for name, path in MODULES_BY_NAME.items():
        if is_in(name, {"sandbox", "backends", "http", "write/journal"}):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for target in written(node):
                owner = ast.unparse(target.value) if isinstance(target, ast.Attribute | ast.Subscript) else ""
                assert owner.rpartition(".")[2] != "note", f"{name}:{target.lineno} writes {ast.unparse(target)}"
            if (
                isinstance(node, ast.arg)
                and node.arg in ("note", "kept", "left", "duty")
                and node.annotation is not None
            ):
                assert "dict" not in ast.unparse(node.annotation), f"{name}:{node.lineno}"


def test_each_module_says_where_its_tests_are() -> None:
    for name, path in MODULES_BY_NAME.items():
        if path.name.startswith("__"):
            continue
        told = (ast.get_docstring(ast.parse(path.read_text())) or "").rpartition("Tests: ")[2]
        assert told.endswith("."), name
        for test in told.rstrip(".").split(", "):
            assert (TESTS / f"{test}.py").exists(), f"{name} names {test}"
