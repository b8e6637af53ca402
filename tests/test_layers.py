"""The import law: arrows point down, the waist knows nobody, the sandbox stands alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import labfs

PRODUCT = Path(labfs.__file__).parent

# module → what it may import of labfs, each line a level of the map in labfs/__init__.py
WAIST = {"backend", "errors"}
LAW: dict[str, set[str]] = {
    "secrecy": set(),
    "errors": {"secrecy"},
    "reasons": {"errors"},
    "backend": {"errors"},
    "urgency": set(),
    "site": {"backend"},
    "names": WAIST,
    "scratch": set(),
    "signs": set(),
    "hiding": {"node"},
    "drafts": WAIST | {"hiding", "names", "node", "rules", "saves", "signs", "sources", "tree"},
    "flight": {"errors"},
    "blocks": WAIST | {"flight"},
    "digests": WAIST,
    "proof": WAIST | {"digests"},
    "refetch": WAIST | {"digests", "proof"},
    "notes": {"errors"},
    "spool": {"backend", "errors", "notes"},
    "sizes": {"backend"},
    "dates": {"backend"},
    "seen": {"backend", "dates"},
    "scan": WAIST,
    "kept": {"backend"},
    "checks": WAIST | {"site"},
    "breaker": {"errors"},
    "verdicts": {"errors"},
    "codings": set(),
    "texts": set(),
    "route": {"errors", "secrecy"},
    "trust": {"errors"},
    "ways": {"connections", "errors", "route", "trust"},
    "bulk": WAIST | {"codings", "connections", "route", "texts", "trust", "verdicts", "ways"},
    "pace": set(),
    "connections": set(),
    "limit": {"errors"},
    "reply": WAIST | {"codings", "texts", "verdicts"},
    "lines": WAIST | {"connections"},
    "patience": set(),
    "client": WAIST
    | {
        "urgency",
        "breaker",
        "bulk",
        "connections",
        "limit",
        "lines",
        "pace",
        "patience",
        "reply",
        "route",
        "secrecy",
        "texts",
    }
    | {"trust", "verdicts", "ways"},
    "direct": WAIST | {"client"},
    "forms": {"backend", "texts"},
    "presigned": WAIST | {"client"},
    "copies": WAIST | {"digests"},
    "reader": WAIST | {"blocks", "copies", "digests", "proof", "refetch"},
    "writer": WAIST | {"reader", "spool"},
    "layout": WAIST | {"names"},
    "listing": {"errors", "flight", "scan"},
    "node": WAIST | {"site", "listing", "names", "scan", "writer"},
    "settling": WAIST | {"layout", "node"},
    "measuring": WAIST | {"urgency", "sizes"},
    "remarks": {"errors", "listing", "node"},
    "tree": WAIST
    | {
        "site",
        "urgency",
        "hiding",
        "kept",
        "layout",
        "listing",
        "measuring",
        "names",
        "node",
        "remarks",
        "scan",
        "seen",
        "settling",
    }
    | {"sizes"},
    "rules": WAIST | {"site", "names", "node", "scratch"},
    "sources": WAIST | {"urgency", "node", "proof", "reader", "tree"},
    "waiting": {"backend", "notes", "spool"},
    "conflicts": WAIST | {"node", "rules"},
    "replacing": WAIST | {"site", "names", "node", "spool", "tree", "waiting"},
    "saves": WAIST
    | {"conflicts", "names", "node", "notes", "reader", "reasons", "replacing", "rules", "sources", "spool", "tree"}
    | {"waiting", "writer"},
    "files": WAIST
    | {"drafts", "signs", "names", "node", "reader", "reasons", "rules", "saves", "sources", "spool", "tree"},
    "moves": WAIST | {"files", "hiding", "signs", "names", "node", "rules", "spool", "tree"},
    "outbox": WAIST | {"site", "files", "names", "node", "notes", "reader", "rules", "spool", "tree", "waiting"},
    "vfs": WAIST
    | {
        "site",
        "blocks",
        "copies",
        "files",
        "kept",
        "moves",
        "names",
        "node",
        "outbox",
        "reader",
        "reasons",
        "rules",
        "seen",
        "sizes",
    }
    | {"drafts", "signs", "spool", "tree"},
    "inodes": set(),
    "holders": {"signs"},
    "answers": {"errors", "vfs"},
    "closes": {"errors", "files", "holders", "inodes", "node", "tree"},
    "refusals": {"answers", "errors", "names"},
    "folders": {"errors", "node"},
    "kernel": {"errors", "inodes", "node"},
    "fuse": {
        "answers",
        "closes",
        "errors",
        "files",
        "folders",
        "holders",
        "inodes",
        "kernel",
        "names",
        "node",
        "refusals",
        "vfs",
    },
    "control": {"errors"},
    "credentials": {"errors", "secrecy"},
    "config": WAIST | {"site", "backends", "credentials"},
    "mounts": {"config", "control", "errors"},
    "daemon": WAIST
    | {
        "site",
        "blocks",
        "config",
        "control",
        "copies",
        "fuse",
        "holders",
        "mounts",
        "route",
        "seen",
        "signs",
        "sizes",
        "spool",
    }
    | {"checks", "kept", "node", "trust", "vfs"},
    "demo": set(),
    "cli_outbox": {"control", "errors", "mounts", "notes"},
    "cli": {"cli_outbox", "config", "control", "daemon", "demo", "errors", "holders", "mounts", "sandbox"}
    | {"secrecy"},
    "__main__": {"cli"},
    "__init__": set(),
}
BACKEND = WAIST | {"urgency", "texts", "client", "direct", "forms", "presigned", "backends"}
OUTSIDE = {
    "httpx": {"client", "bulk", "lines", "verdicts", "ways"},
    "httpx_socks": {"ways"},
    "python_socks": {"ways"},
    "certifi": {"trust"},
    "pyreqwest": {"bulk", "verdicts", "ways"},
    "pyfuse3": {"answers", "kernel", "refusals", "fuse", "daemon"},
    "cachetools": {"answers", "blocks", "measuring", "reader", "reasons"},
    "trio": {"flight", "drafts", "hiding", "blocks", "checks", "listing", "breaker", "copies", "outbox", "waiting", "proof", "reader", "refetch", "writer", "tree", "files", "moves", "saves", "vfs", "client", "pace", "presigned", "reply", "lines", "ways", "fuse", "answers", "closes", "kernel", "control", "measuring", "sources",
             "daemon", "backends/basespace_saving", "backends/looking", "backends/paging", "backends/clarity_files", "backends/several", "backends/odm", "backends/portal",
             "backends/portal_lists", "backends/portal_people", "backends/portal_rows", "backends/portal_saving", "backends/redcap_projects",
             "backends/redcap_wire"},
    "xxhash": {"digests"},
    "defusedxml": {"backends/clarity_entries"},
    "click": {"cli", "cli_outbox", "demo"},
    "keyring": {"credentials"},
    "platformdirs": {"config"},
}  # fmt: skip
REASON = "labfs/__init__.py draws who may import whom; change the shape before you change this table"


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PRODUCT.rglob("*.py")):
        name = str(path.relative_to(PRODUCT).with_suffix("")).removesuffix("/__init__")
        found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, at its top or within a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            module = str(node.module)
            package = module in ("labfs", "labfs.backends", "labfs.sandbox")
            found |= {f"{module}.{alias.name}" for alias in node.names} if package else {module}
    return found


def ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("labfs.") and "__version__" not in name}


CORE = {name: path for name, path in modules().items() if "/" not in name and name not in ("backends", "sandbox")}
BACKENDS = {name: path for name, path in modules().items() if name.startswith("backends/")}
SANDBOX = {name: path for name, path in modules().items() if name.startswith("sandbox")}


@pytest.mark.parametrize("name", CORE)
def test_a_module_imports_only_what_lies_below_it(name: str) -> None:
    assert name in LAW, f"{name} is not in the law; {REASON}"
    assert ours(CORE[name]) <= LAW[name], REASON


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_knows_the_waist_and_the_client(name: str) -> None:
    assert ours(BACKENDS[name]) <= BACKEND, "a backend knows URLs and bodies of one system and nothing of the core"


@pytest.mark.parametrize("name", SANDBOX)
def test_the_sandbox_shares_no_code_with_the_rest(name: str) -> None:
    assert ours(SANDBOX[name]) <= {"sandbox"}, "a shared helper would make a shared misreading invisible"


@pytest.mark.parametrize("library", OUTSIDE)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    users = {
        name for name, path in {**CORE, **BACKENDS}.items() if any(i.split(".")[0] == library for i in imports(path))
    }
    assert users <= OUTSIDE[library]


def test_no_vendor_is_named_above_the_waist() -> None:
    for name, path in CORE.items():
        if name not in ("__init__", "demo"):
            text = path.read_text().lower()
            for vendor in ("basespace", "illumina", "redcap", "clarity", "genestack"):
                assert vendor not in text, f"{name} names {vendor}"


def test_the_map_names_every_module() -> None:
    named = (labfs.__doc__ or "").split()
    for name in CORE:
        if not name.startswith("__"):
            assert name in named, f"the map in labfs/__init__.py does not name {name}"


def test_functions_and_modules_stay_small() -> None:
    for name, path in modules().items():
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{name} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{name}.{node.name} is too long"
