"""plan: results of scenarios as JUnit XML, which every CI server reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as Xml

from scenario.files.verdict import ERROR, INCONCLUSIVE, PASS, Result

_NO_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(results: Sequence[Result]) -> str:
    """One case for each run: failed for a broken invariant or a missed objective, in error when
    the run proves nothing or could not go on. Times are those of the scenario, in seconds."""
    codes = [result.verdict.code for result in results]
    errors = sum(code in (INCONCLUSIVE, ERROR) for code in codes)
    failures = sum(code != PASS for code in codes) - errors
    suite = Xml.Element(
        "testsuite", name="eightfold scenario", tests=str(len(results)), failures=str(failures),
        errors=str(errors),
    )  # fmt: skip
    for result in results:
        _case(suite, result)
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: Xml.Element, result: Result) -> None:
    last_ms = max((line.at_ms for line in result.log), default=0)
    case = Xml.SubElement(
        suite, "testcase", classname=f"scenario.{result.world}",
        name=f"{result.scenario} seed {result.seed}", time=f"{last_ms / 1000:.3f}",
    )  # fmt: skip
    verdict = result.verdict
    if verdict.code != PASS:
        kind = "error" if verdict.code in (INCONCLUSIVE, ERROR) else "failure"
        found = Xml.SubElement(case, kind, type=verdict.word, message=_clean(verdict.reason))
        found.text = f"repeat it: {result.command}"
    lines = [f"{line.at_ms} ms {line.event} {line.text}".rstrip() for line in result.log]
    Xml.SubElement(case, "system-out").text = _clean("\n".join(lines))


def _clean(text: str) -> str:
    """Without the characters that no XML can have."""
    return _NO_XML.sub("?", text)
