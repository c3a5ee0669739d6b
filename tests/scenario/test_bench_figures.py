"""The arithmetic of the benchmark, without running anything."""

import json
from dataclasses import replace
from typing import Any

import pytest

from base.errors import ConfigError
from scenario.bench_figures import (
    BEGIN,
    END,
    Bound,
    Run,
    as_json,
    cpu_per_io_us,
    markdown,
    noise,
    number,
    order,
    paired_ratios,
    parse_fio,
    put_between,
    result,
    summarise,
    table_rows,
)
from scenario.benchmark import arguments


def run(target: str, turn: int, io_per_s: float, load: str = "write32") -> Run:
    return Run(load, target, turn, io_per_s, io_per_s * 4096 / 1e6, 100, 900, 5, 1000, 90, 0.1)


def side(ios: int) -> dict[str, Any]:
    at = {"50.000000": 250_000, "99.000000": 4_000_000}
    latency = {"max": 480_000_000 if ios else 0, "percentile": at if ios else {}}
    return {
        "total_ios": ios, "iops": ios / 2, "bw_bytes": ios * 2048, "runtime": 2000,
        "clat_ns": latency,
    }  # fmt: skip


def fio(written: int, read: int, error: int = 0) -> str:
    job = {"write": side(written), "read": side(read), "error": error}
    return "fio: connected\n" + json.dumps({"jobs": [{**job, "usr_cpu": 30.0, "sys_cpu": 20.0}]})


def test_fio_is_read_after_its_prose() -> None:
    seen = parse_fio(fio(1000, 0))
    assert seen["io_per_s"] == 500
    assert seen["mb_per_s"] == pytest.approx(2.048)
    assert (seen["p50_us"], seen["p99_us"], seen["longest_ms"]) == (250, 4000, 480)
    assert (seen["client_cores"], seen["seconds"], seen["errors"]) == (0.5, 2, 0)


def test_fio_of_reads_is_read_from_its_reads() -> None:
    assert parse_fio(fio(0, 4000))["io_per_s"] == 2000


def test_error_of_fio_is_kept() -> None:
    assert parse_fio(fio(10, 0, error=5))["errors"] == 5


@pytest.mark.parametrize("text", ["", "fio: connection refused", "{}", '{"jobs": []}', "{ half"])
def test_fio_without_a_result_is_an_error_with_its_last_words(text: str) -> None:
    with pytest.raises(ConfigError, match="fio gave no result"):
        parse_fio(text)


def test_cpu_is_shared_among_operations() -> None:
    assert cpu_per_io_us(2.0, 20_000) == 100
    assert cpu_per_io_us(2.0, 0) == 0


def test_order_of_targets_turns_from_round_to_round() -> None:
    assert [order(["a", "b", "c"], turn) for turn in range(3)] == [
        ["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]
    ]  # fmt: skip


def test_ratio_is_taken_within_a_round() -> None:
    runs = [
        run("nbdkit", 0, 100), run("owner", 0, 20),
        run("nbdkit", 1, 10), run("owner", 1, 3),
        run("owner", 2, 50),
    ]  # fmt: skip
    assert paired_ratios(runs, "write32", "owner", "io_per_s") == [0.2, 0.3]


def test_ratio_of_medians_would_be_another_number() -> None:
    """One slow round moves both: the pair keeps its ratio."""
    runs = [run("nbdkit", 0, 100), run("owner", 0, 25), run("nbdkit", 1, 40), run("owner", 1, 10)]
    assert result("write32", "owner", "ratio", [0.25, 0.25]).value == 0.25
    assert set(paired_ratios(runs, "write32", "owner", "io_per_s")) == {0.25}


def test_summary_has_a_ratio_for_our_set_ups_only() -> None:
    results = summarise([run("nbdkit", 0, 100), run("owner", 0, 30)])
    assert [(r.setup, r.measure) for r in results if r.measure == "ratio"] == [("owner", "ratio")]
    ratio = next(r for r in results if r.measure == "ratio")
    assert (ratio.value, ratio.verdict) == (0.3, "met")


def test_summary_without_the_reference_has_no_ratio() -> None:
    results = summarise([run("owner", 0, 30)])
    assert [r.measure for r in results] == ["io_per_s", "p99_us", "cpu_us_per_io"]


def test_reference_is_not_held_to_our_bounds() -> None:
    results = summarise([run("nbdkit", 0, 100)])
    assert {r.verdict for r in results} == {"-"}


def test_stalls_are_judged_by_the_worst() -> None:
    each = result("kill", "hash", "longest_ms", [200, 1200, 300], worst=True)
    assert (each.value, each.verdict) == (1200, "short")


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.36, "goal"), (0.35, "goal"), (0.2, "met"), (0.19, "short")]
)
def test_more_is_better_for_throughput(value: float, verdict: str) -> None:
    assert Bound(0.20, 0.35, True).verdict(value) == verdict


@pytest.mark.parametrize(("value", "verdict"), [(80, "goal"), (119, "met"), (121, "short")])
def test_less_is_better_for_cpu(value: float, verdict: str) -> None:
    assert Bound(120, 80, False).verdict(value) == verdict


@pytest.mark.parametrize(
    ("value", "text"), [(0.21349, "0.213"), (12.44, "12.4"), (345.6, "346"), (12345.6, "12,346")]
)
def test_numbers_have_three_digits_that_say_something(value: float, text: str) -> None:
    assert number(value) == text


def test_report_has_a_row_for_each_result_and_names_what_is_missing() -> None:
    results = summarise([run("nbdkit", 0, 100), run("owner", 0, 30)])
    page = markdown(results, ["attach: not there"], {"on": "two cores"})
    assert page.count("\n| write32") == len(table_rows(results)) == len(results)
    assert "- attach: not there" in page
    assert page.startswith("Measured on two cores.")


def test_report_goes_between_the_marks_and_replaces_the_last_one() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    again = put_between(put_between(page, "new"), "newer")
    assert again == f"before\n{BEGIN}\n\nnewer\n{END}\nafter"


def test_noise_of_the_machine_is_told() -> None:
    quiet, loud = run("owner", 0, 30), replace(run("owner", 1, 30), other_cores=1.5)
    assert noise([quiet, loud, quiet]) == "0.1 (at most 1.5)"
    assert noise([]) == "unknown"


def test_document_without_marks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no place for results"):
        put_between("text", "report")


def test_json_says_what_was_wanted_and_what_was_seen() -> None:
    runs = [run("nbdkit", 0, 100), run("owner", 0, 30)]
    document = as_json(summarise(runs), runs, [], {"on": "two cores"})
    assert json.loads(json.dumps(document)) == document
    ratio = next(each for each in document["results"] if each["measure"] == "ratio")
    assert (ratio["must"], ratio["samples"], ratio["verdict"]) == (0.2, [0.3], "met")


def test_single_figure_can_be_asked_for() -> None:
    asked = arguments(["--only", "write32", "--seconds", "5", "--area", "256MiB"])
    assert (asked.only, asked.seconds, asked.area) == (["write32"], 5, 256 << 20)


def test_unknown_figure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--only", "write33"])
    assert "write33 is none of write32" in capsys.readouterr().err
