"""Shapes, sizes and names of code that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.tidy.tree import PACKAGES, Module, called, modules, parsed

KINDS: Final = ("codec", "step", "plan", "shell")
FUNCTION_LINES_MAX: Final = 60
FILE_LINES_MAX: Final = 650

# Sizes are signs, not quotas. Whoever is over says why; an entry that is not needed any more fails.
LONG_FILES: Final[dict[str, str]] = {
    "node/io_path.py": "performs the effects of the cores in their order; the order is the point",
    "cluster/catalog.py": "one state: what it applies, what it answers and how it is kept",
    "node/region_copy.py": "one protocol: its parts share every field of the copy",
}
_FIELDS = "a constructor: one line for each field of the state that it holds, no branches"
LONG_FUNCTIONS: Final[dict[str, str]] = {
    "node/core.py:NodeCore.__init__": _FIELDS,
    "node/region_copy.py:RegionCopy.__init__": _FIELDS,
    "node/io_path.py:IoPath.__init__": _FIELDS,
    "sim/kernel.py:KernelNode.start": "the composition of the cores of a node, one call each",
    "node/region_store.py:RegionStore.__init__": _FIELDS,
    "node/daemon.py:Node.start": "the composition of a node, one part after the other",
}
# Real sockets and threads tell nobody when they are done: these look again, within a time limit.
SLEEPS: Final[dict[str, str]] = {
    "tests/node/test_consensus_store.py": "waits for a thread that syncs a file",
    "tests/transport/mosquitto.py": "waits for a process to listen, at most 10 s",
    "tests/transport/test_mesh.py": "waits for links of real sockets, at most 20 s",
    "tests/transport/test_sim_network.py": "on a virtual-time loop: costs no time",
}

# 05-words: "manager" only where the industry says it, the others never.
NOT_NAMES: Final = (
    "Manager", "Handler", "Helper", "Util", "Utils", "Utility", "Common", "Misc", "Item",
)  # fmt: skip
NAMED_ALL_THE_SAME: Final = ("VolumeManager",)

_WORD = re.compile(r"[A-Z][a-z0-9]*|[A-Z]+(?![a-z])")


def wrong_kind(module: Module) -> bool:
    return module.kind not in KINDS


def imports(module: Module, wanted: str) -> bool:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import) and any(
            alias.name.partition(".")[0] == wanted for alias in node.names
        ):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == wanted:
            return True
    return False


def long_functions(module: Module, lines_max: int = FUNCTION_LINES_MAX) -> list[str]:
    return [
        f"{module.name}:{name}"
        for name, node in module.functions()
        if (node.end_lineno or 0) - node.lineno + 1 > lines_max
    ]


def bad_names(module: Module) -> list[str]:
    return [
        node.name
        for node in module.classes()
        if node.name not in NAMED_ALL_THE_SAME and set(_WORD.findall(node.name)) & set(NOT_NAMES)
    ]


def unbounded_queues(module: Module) -> list[int]:
    """Lines that make a queue without a bound, or with the bound 0 that means none."""
    lines = []
    for call in module.calls():
        if called(call).rpartition(".")[2] not in ("Queue", "LifoQueue", "PriorityQueue"):
            continue
        bounds = [*call.args[:1], *(kw.value for kw in call.keywords if kw.arg == "maxsize")]
        if not bounds or (isinstance(bounds[0], ast.Constant) and bounds[0].value == 0):
            lines.append(call.lineno)
    return lines


def test_every_module_says_its_kind_first() -> None:
    assert [m.name for m in modules() if not m.is_package and wrong_kind(m)] == []


def test_module_without_a_kind_is_seen() -> None:
    assert wrong_kind(parsed("x.py", '"""Things: of all sorts."""'))
    assert not wrong_kind(parsed("x.py", '"""step: one thing."""'))


def test_packages_hold_a_docstring_and_nothing_else() -> None:
    for module in modules():
        if module.is_package:
            assert len(module.tree.body) == 1, module.name
            assert ast.get_docstring(module.tree), module.name


def test_only_shells_import_asyncio() -> None:
    assert [m.name for m in modules() if m.kind != "shell" and imports(m, "asyncio")] == []


def test_import_inside_a_function_is_seen() -> None:
    assert imports(parsed("x.py", "def f():\n    from asyncio import sleep"), "asyncio")


def test_files_are_short_or_say_why_not() -> None:
    long = {m.name for m in modules(*PACKAGES, "tests") if m.text.count("\n") > FILE_LINES_MAX}
    assert sorted(long ^ LONG_FILES.keys()) == []


def test_functions_are_short_or_say_why_not() -> None:
    long = {name for m in modules(*PACKAGES, "tests") for name in long_functions(m)}
    assert sorted(long ^ LONG_FUNCTIONS.keys()) == []


def test_long_method_is_seen() -> None:
    module = parsed("x.py", "class A:\n  def f(self):\n    a = 1\n    b = 2\n    c = 3\n")
    assert long_functions(module, 3) == ["x.py:A.f"]
    assert long_functions(module, 4) == []


def test_classes_are_named_after_what_they_are() -> None:
    assert [(m.name, name) for m in modules() for name in bad_names(m)] == []


@pytest.mark.parametrize("name", ["DiskManager", "IOHandler", "StringUtils", "MiscThings"])
def test_name_that_says_nothing_is_seen(name: str) -> None:
    assert bad_names(parsed("x.py", f"class {name}: pass")) == [name]


def test_volume_manager_is_a_word_of_the_industry() -> None:
    assert bad_names(parsed("x.py", "class VolumeManager: pass")) == []


def test_every_queue_has_a_bound() -> None:
    assert [(m.name, line) for m in modules() for line in unbounded_queues(m)] == []


@pytest.mark.parametrize("made", ["asyncio.Queue()", "Queue(0)", "queue.Queue(maxsize=0)"])
def test_queue_without_a_bound_is_seen(made: str) -> None:
    assert unbounded_queues(parsed("x.py", f"q = {made}")) == [1]


def test_queue_with_a_bound_passes() -> None:
    assert unbounded_queues(parsed("x.py", "q = Queue(16); r = Queue(maxsize=limit)")) == []


def base_names(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        yield name.rpartition(".")[2]


def test_inheritance_is_one_level_deep() -> None:
    bases = {node.name: set(base_names(node)) for m in modules() for node in m.classes()}
    deep = [
        f"{name} < {base} < {above}"
        for name in sorted(bases)
        for base in sorted(bases[name] & bases.keys())
        for above in sorted(bases[base] & bases.keys())
    ]
    assert deep == []


def sleeps(module: Module) -> bool:
    """Whether it waits for time to pass. `sleep(0)` is a turn of the loop, not time."""
    return any(
        called(call) in ("time.sleep", "asyncio.sleep", "sleep", "pause")
        and not (isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)
        for call in module.calls()
        if call.args
    )


def test_tests_do_not_sleep() -> None:
    """Except where real processes run, and where the loop runs on virtual time."""
    slept = {
        module.name
        for module in modules("tests")
        if sleeps(module)
        and not module.name.startswith(("tests/processes/", "tests/interop/"))
        and not imports(module, "sim")
    }
    assert sorted(slept ^ SLEEPS.keys()) == []


def test_sleep_is_seen_but_not_a_turn_of_the_loop() -> None:
    assert sleeps(parsed("x.py", "await asyncio.sleep(0.1)"))
    assert not sleeps(parsed("x.py", "await asyncio.sleep(0)"))
