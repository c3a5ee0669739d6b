"""Results as JUnit XML: how a CI server counts them, and what no XML can have."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from scenario.files.junit import junit
from scenario.files.runner import Line
from scenario.files.verdict import INCONCLUSIVE, INVARIANT, PASS, Figures, Result, Verdict


def result(code: int, reason: str = "so") -> Result:
    log = (Line(1500, "node down", 1, "n1 <&>"), Line(6000, "run ended"))
    verdict = Verdict(code, reason)
    return Result("small", "sim", 7, verdict, Figures(), log=log, command="run it again")


def test_broken_invariant_is_a_failure_and_a_run_that_proves_nothing_an_error() -> None:
    suite = Xml.fromstring(junit([result(PASS), result(INVARIANT, "I1"), result(INCONCLUSIVE)]))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    first, second, third = suite.findall("testcase")
    assert first.find("failure") is None
    failure = second.find("failure")
    assert failure is not None
    assert (failure.get("message"), failure.text) == ("I1", "repeat it: run it again")
    assert third.find("error") is not None


def test_case_says_how_long_the_scenario_took_and_what_happened() -> None:
    case = Xml.fromstring(junit([result(PASS)]))[0]
    assert case.get("time") == "6.000"
    assert case.findtext("system-out") == "1500 ms node down n1 <&>\n6000 ms run ended"


def test_characters_that_no_xml_can_have_are_replaced() -> None:
    suite = Xml.fromstring(junit([result(INVARIANT, "bytes \x00\x1b")]))
    failure = suite[0].find("failure")
    assert failure is not None
    assert failure.get("message") == "bytes ??"
