"""What the tidy tests look at: every file of the project, parsed once."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = (
    "base", "transport", "volume", "snapshot", "cluster",
    "node", "host", "admin", "sim", "scenario",
)  # fmt: skip
BESIDE: Final = ("configs", "docs", "tests")  # directories that are no packages

# Made by tools or by running the project; never part of it.
_MADE: Final = ("build", "dist", "bench-results", "eightfold-data", "__pycache__")
_TEXT: Final = (
    ".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".conf", ".html", ".css", ".js"
)  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file."""

    name: str  # its path below the root, as "node/core.py"
    text: str
    tree: ast.Module

    @property
    def kind(self) -> str:
        """codec, step, plan or shell: what its docstring begins with; else its first word."""
        doc = ast.get_docstring(self.tree) or ""
        return doc.partition(":")[0] if ":" in doc.partition("\n")[0] else doc.partition(" ")[0]

    @property
    def is_package(self) -> bool:
        return self.name.endswith("__init__.py")

    def functions(self) -> Iterator[tuple[str, Function]]:
        """(qualified name, node) of every function and method."""
        yield from _functions(self.tree, "")

    def classes(self) -> Iterator[ast.ClassDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                yield node

    def calls(self) -> Iterator[ast.Call]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        inside = f"{prefix}{child.name}." if isinstance(child, Function | ast.ClassDef) else prefix
        yield from _functions(child, inside)


def parsed(name: str, text: str) -> Module:
    return Module(name, text, ast.parse(text))


@functools.cache
def modules(*tops: str) -> tuple[Module, ...]:
    """Every Python file below these directories, by name."""
    return tuple(
        parsed(str(path.relative_to(ROOT)), path.read_text())
        for top in tops or PACKAGES
        for path in sorted((ROOT / top).rglob("*.py"))
        if not set(path.parts) & set(_MADE)
    )


@functools.cache
def texts() -> tuple[tuple[str, str], ...]:
    """(name, contents) of every text file of the project."""
    found = [path for path in sorted(ROOT.iterdir()) if path.is_file() and _is_text(path)]
    for top in (*PACKAGES, *BESIDE, ".ci"):
        found += [path for path in sorted((ROOT / top).rglob("*")) if _is_text(path)]
    return tuple((str(path.relative_to(ROOT)), path.read_text()) for path in found)


def _is_text(path: Path) -> bool:
    named = path.suffix in _TEXT or path.name in ("Makefile", "run", ".gitignore", "Dockerfile")
    return named and path.is_file() and not set(path.parts) & set(_MADE)


def called(call: ast.Call) -> str:
    """The dotted name of what is called, as far as it is written with names."""
    return ast.unparse(call.func)


def docstring_line(module: Module) -> str:
    return (ast.get_docstring(module.tree) or "").partition("\n")[0]
