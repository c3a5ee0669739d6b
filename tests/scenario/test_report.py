"""Reports of runs: their figures, the record that they are drawn from, and what the page says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from base.errors import InvalidRequest, NotFound
from scenario.files.commands import scenario_app
from scenario.files.failovers import failovers
from scenario.files.receipts import Receipt
from scenario.files.seen import Answers, Note, notes_of_log
from scenario.files.targets import Places
from scenario.files.verdict import INCONCLUSIVE, INVARIANT
from scenario.report import figures, files
from scenario.report.charts import draw
from scenario.report.page import page
from scenario.report.palette import COLOURS
from scenario.report.record import decode, encode
from scenario.report.rules import RULES, rule_of
from tests.scenario.report_world import ALL_OF_IT, NOTES, answers, result, track
from tests.tidy.tree import ROOT


def test_failover_says_when_it_was_detected_fenced_taken_over_and_answered() -> None:
    (found,) = result().failovers
    assert (found.detected_ms, found.fenced_ms, found.taken_over_ms) == (3, 9, 410)
    assert (found.acknowledged_ms, found.redundant_ms) == (520, 1000)


def test_what_a_lost_node_says_of_itself_is_no_detection() -> None:
    receipt = Receipt(0, 0, "a", "kill", True, "", 1, Places((0,)), dict(ALL_OF_IT))
    own = (Note(1001, 0, "node.suspected", {"node": 0}), *NOTES)
    (found,) = failovers((receipt,), (), own, answers(), track())
    assert found.detected_ms == 3


def test_answer_of_a_region_that_did_not_move_is_not_the_first_after_a_failover() -> None:
    lone = answers()
    lone.region = [1] * len(lone)
    receipt = Receipt(0, 0, "a", "kill", True, "", 1, Places((0,)), dict(ALL_OF_IT))
    (found,) = failovers((receipt,), (), NOTES, lone, track())
    assert (found.taken_over_ms, found.acknowledged_ms) == (410, None)


def test_waits_far_beyond_the_median_are_stalls_and_those_that_overlap_are_one() -> None:
    found = answers()
    assert [(each.from_ms, each.longest_ms) for each in figures.stalls(found, 6000)] == [
        (1020, 500)
    ]
    found.end_us[found.start_us.index(1_200_000)] = -1  # never answered: it waits to the end
    (stall,) = figures.stalls(found, 6000)
    assert (stall.to_ms, stall.operations, stall.hosts) == (6000, 2, (0, 1))


def test_exposure_counts_every_region_and_the_time_that_some_region_was_exposed() -> None:
    assert figures.exposure(track()) == figures.Exposure(950, 950, 950, 1)
    assert figures.exposed_steps(track()) == [(0, 0), (1050, 1), (2000, 0)]
    assert figures.owned(track())[0] == [(0, 1050, 1)]


def test_resyncs_are_summed_by_mode() -> None:
    (found,) = figures.resyncs(NOTES)
    assert (found.mode, found.copies, found.pages, found.sent_bytes) == ("full", 1, 3, 12_288)


def test_throughput_counts_what_was_refused_apart() -> None:
    good, bad = figures.per_second(answers(), 6000, 1000)
    assert sum(good) == 21
    assert bad == [0, 1, 0, 0, 0, 0]


def test_log_of_a_node_gives_the_notes_that_a_report_has_use_for() -> None:
    lines = [
        '{"event":"node.suspected","node":3,"timestamp":"2026-01-01T00:00:01.500Z","level":"info"}',
        '{"event":"something.else","timestamp":"2026-01-01T00:00:01.500Z"}',
        "no JSON",
        "7",
    ]
    begun_ns = 1_767_225_600 * 1_000_000_000
    assert notes_of_log(lines, 2, begun_ns) == [Note(1500, 2, "node.suspected", {"node": 3})]


def test_record_gives_the_same_run_again() -> None:
    assert decode(encode(result()), source="here") == result()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "here: no record of a run: it is no JSON"),
        ("[]", "here: no record of a run: it has no `format`"),
        ('{"format": 9, "run": {}}', "here: a record of format 9; this program reads format 1"),
        ('{"format": 1, "run": {"scenario": 3}}', "here: run.scenario: "),
    ],
)
def test_what_is_no_record_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(why)):
        decode(text, source="here")


def test_page_is_one_file_that_fetches_nothing_and_runs_nothing() -> None:
    text = page(result(), draw)
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', text.replace("xlink:", "")) == []
    assert re.findall(r"url\((?!#)[^)]*\)", text) == []
    assert "default-src 'none'" in text


def test_page_tells_verdict_receipts_failover_stalls_and_the_command_that_repeats_it() -> None:
    text = page(result(), draw, others=[(6, "PASS", "so")])
    for told in (
        "PASS", "seed 7", "eightfold scenario run small --seed 7", "process &lt;1&gt; is gone",
        "owner of vol0", "first answer", ">410<", ">520<", "12.0 KiB", "All 2 seeds",
    ):  # fmt: skip
        assert told in text, told
    assert "<b>it</b>" not in text


def test_page_of_a_broken_invariant_says_which_and_what_was_before() -> None:
    text = page(result(INVARIANT, "I1: lost", broken="I1: lost"), draw)
    assert "An invariant did not hold" in text
    assert "The last events of the run" in text
    assert "a rule broke" in text
    assert f"What has to be so: <strong>I1: {RULES['I1']}" in text


def test_rules_are_told_as_the_documents_have_them() -> None:
    text = (Path(ROOT) / "docs/internals/invariants.md").read_text(encoding="utf-8")
    for name, means in RULES.items():
        assert f"| {name} | {means} |" in text, name
    assert rule_of("at 3 s I5 was broken") == f"I5: {RULES['I5']}"
    assert rule_of("nothing of that kind: I99") == ""


def test_page_of_an_inconclusive_run_names_the_fault_without_a_receipt() -> None:
    run = result(INCONCLUSIVE, "first (kill) was not observed")
    del run.receipts[0].at_ms["observed"]
    text = page(run, draw)
    assert "first (kill): not observed" in text
    assert "0 of 1 with a receipt" in text


def test_charts_have_every_lane_in_both_widths_and_no_colour_of_their_own() -> None:
    for wide, end in ((True, "w"), (False, "n")):
        svg = draw(result(), wide=wide)
        for lane in ("faults", "nodes", "regions", "exposed", "latency", "throughput", "hosts"):
            assert f'id="{lane}-{end}"' in svg, lane
        colours = set(re.findall(r"#[0-9a-f]{6}", svg))
        assert colours <= {"#ffffff", "#000000"}, colours
        assert "var(--node0)" in svg
        assert "kill n0" in svg


def test_charts_of_a_run_that_saw_nothing_can_be_drawn() -> None:
    bare = replace(result(), receipts=(), failovers=(), figures=replace(
        result().figures, answers=Answers(), notes=()
    ))  # fmt: skip
    assert "<svg" in page(bare, draw)


def test_same_run_gives_the_same_page() -> None:
    assert page(result(), draw) == page(result(), draw)


def test_every_colour_of_the_light_has_one_in_the_dark() -> None:
    assert all(re.fullmatch("#[0-9a-f]{6}", each) for pair in COLOURS.values() for each in pair)


def test_report_is_drawn_again_from_its_record_and_by_the_name_of_its_run(tmp_path: Path) -> None:
    made = files.write(result(), tmp_path)
    assert made.name == "small-sim-7.html"
    first = made.read_text()
    made.unlink()
    command = CliRunner().invoke(
        scenario_app, ["report", "small-sim-7", "--reports", str(tmp_path), "--json"]
    )
    assert command.exit_code == 0, command.output
    assert json.loads(command.stdout)["report"] == str(made)
    assert made.read_text() == first


def test_record_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    files.write(result(), tmp_path)
    with pytest.raises(NotFound, match="did you mean small-sim-7"):
        files.find("smal-sim-7", tmp_path)
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        files.read(tmp_path / "bad.json")


def test_place_that_cannot_be_written_to_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="no place for reports"):
        files.prepare(tmp_path / "file" / "below")
