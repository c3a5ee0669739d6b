"""plan: the report of a run as one HTML file that needs nothing else: no network and no script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final

from scenario.files import receipts as rc
from scenario.files.amounts import time_text
from scenario.files.seen import KINDS
from scenario.files.verdict import (
    ERROR,
    INCONCLUSIVE,
    INVARIANT,
    OBJECTIVE,
    PASS,
    Expected,
    Result,
)
from scenario.report import figures
from scenario.report.palette import css, family
from scenario.report.rules import rule_of

LINES_MAX: Final = 400
BROAD: Final = 6  # columns of a table beyond which it is moved sideways on a telephone
# Nothing is fetched and nothing runs when it is looked at.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_TONES: Final = {
    PASS: "good", INVARIANT: "bad", OBJECTIVE: "warn", INCONCLUSIVE: "unsure", ERROR: "bad",
}  # fmt: skip
_STYLE: Final = """\
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:0 16px 48px}
header{border-left:10px solid var(--tone);background:var(--card);padding:14px 18px;margin:16px 0;
border-radius:0 8px 8px 0}
h1{margin:0;font-size:26px;line-height:1.2}
h1 b{color:var(--tone)}
header p{margin:6px 0 0}
h2{font-size:18px;margin:30px 0 8px}
.about{color:var(--soft);white-space:pre-line;max-width:75ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:10px}
.tile{background:var(--card);border-radius:8px;padding:10px 12px;border-top:3px solid var(--tone)}
.tile b{display:block;font-size:21px;line-height:1.25;overflow-wrap:anywhere}
.tile span{color:var(--soft);font-size:13px}
.good{--tone:var(--good)}.bad{--tone:var(--bad)}.warn{--tone:var(--warn)}
.unsure{--tone:var(--unsure)}.plain{--tone:var(--line)}
td.good,td.bad,td.warn,td.unsure{color:var(--tone);font-weight:600}
.chart svg{width:100%;height:auto;display:block}
.chart svg text{font-family:system-ui,sans-serif}
.legend{margin:0 0 4px;color:var(--soft);font-size:13px}
.legend span{margin-right:16px;white-space:nowrap}
.legend i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:5px}
.narrow{display:none}
@media (max-width:720px){.wide{display:none}.narrow{display:block}h1{font-size:21px}}
.scroll{overflow-x:auto}
@media (max-width:720px){table.broad{min-width:860px}}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:var(--soft);font-weight:500;font-size:13px}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre,code{font:13px/1.45 ui-monospace,monospace}
pre{background:var(--card);padding:10px 12px;border-radius:8px;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere;margin:8px 0}
details{margin-top:14px}summary{cursor:pointer;color:var(--soft)}
footer{color:var(--soft);font-size:13px;margin-top:32px}
"""

Draw = Callable[..., str]
Cell = str | int | float | None


def page(result: Result, draw: Draw, *, others: Sequence[tuple[int, str, str]] = ()) -> str:
    """draw: `charts.draw`. others: (seed, verdict, reason) of earlier runs of the same command."""
    title = f"{result.verdict.word}: {result.scenario} on {result.world}, seed {result.seed}"
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>{css()}{_STYLE}</style></head><body><main>",
        _header(result), _tiles(result), _why(result), _charts(result, draw),
        *_sections(result, others),
        "<footer>Times are milliseconds since the hosts began. Nodes and owners are looked at every"
        f" {_looks(result)}; what nodes log and what hosts saw is exact. A stall is a wait of more"
        f" than {figures.stall_threshold_ms(result.figures.answers):.0f} ms: ten times the median,"
        " and at least 100 ms.</footer></main></body></html>\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _looks(result: Result) -> str:
    return "20 ms of virtual time" if result.world == "sim" else "50 ms or so"


# ---------------------------------------------------------------------------------- the top


def _header(result: Result) -> str:
    verdict = result.verdict
    mutation = (
        f" with the deliberate bug <b>{escape(result.mutation)}</b>" if result.mutation else ""
    )
    return (
        f'<header class="{_TONES[verdict.code]}"><h1><b>{verdict.word}</b>'
        f" {escape(result.scenario)}</h1>"
        f"<p><strong>{escape(_short(verdict.reason))}</strong></p>"
        f"<p>on <b>{escape(result.world)}</b>, seed {result.seed}{mutation}. Repeat it:</p>"
        f"<pre>{escape(result.command or 'no command was recorded')}</pre>"
        f'<p class="about">{escape(" ".join(result.about.split()))}</p></header>'
    )


def _short(text: str) -> str:
    first = text.strip().splitlines()[-1] if text.strip() else ""
    return first if len(first) < 400 else first[:397] + "…"


def _tile(name: str, value: str, about: str, tone: str = "plain") -> str:
    return (
        f'<div class="tile {tone}"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<span>{escape(about)}</span></div>"
    )


def _tiles(result: Result) -> str:
    counted, code = result.figures, result.verdict.code
    faults = [receipt for receipt in result.receipts if receipt.fault]
    proven = sum(receipt.complete for receipt in faults)
    hidden = figures.exposure(result.track)
    sent = sum(each.sent_bytes for each in figures.resyncs(counted.notes))
    outcomes = figures.answered(counted.answers)
    unknown = outcomes["failed"] + outcomes["unknown"] + outcomes["open"]
    stall, again = (_expected_of(result, name) for name in ("longest stall", "redundant again"))
    if code == INVARIANT:
        lost = _tile("Was anything lost?", "a rule broke", "see the reason below", "bad")
    elif code == ERROR:
        lost = _tile("Was anything lost?", "not known", "the run could not go on", "unsure")
    else:
        lost = _tile("Was anything lost?", "nothing", "every byte read was checked", "good")
    tiles = [
        lost,
        _tile(
            "What struck", f"{len(faults)} fault{'s' * (len(faults) != 1)}",
            f"{proven} of {len(faults)} with a receipt",
            "good" if proven == len(faults) else "unsure",
        ),
        _tile(
            "Longest stall", time_text(counted.longest_stall_ms),
            f"{stall.wanted} was wanted" if stall else "no limit was set",
            "bad" if stall and not stall.held else "good" if stall else "plain",
        ),
        _tile("Operations", f"{counted.operations}", f"{unknown} refused or unknown"),
        _tile(
            "Exposed", f"{hidden.span_ms / 1000:.2f} s",
            f"{again.wanted} was wanted" if again
            else f"{hidden.regions} regions lacked a copy",
            "bad" if again and not again.held else "plain",
        ),
        _tile("Sent to fill copies", _bytes(sent), "resync, by log or pages or in full"),
    ]  # fmt: skip
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _expected_of(result: Result, what: str) -> Expected | None:
    """The limit on it, if there is one; `redundant again` is the name of an event too."""
    found = [each for each in result.verdict.expected if each.what == what]
    return next((each for each in found if each.wanted != "seen"), None)


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _why(result: Result) -> str:
    """Of what is not green: all of the reason, and what is known around it."""
    verdict, counted = result.verdict, result.figures
    if verdict.code == PASS:
        return ""
    told = {
        INVARIANT: "An invariant did not hold",
        OBJECTIVE: "An objective was missed: everything was right, and not as good as was asked",
        INCONCLUSIVE: "The run proves nothing: something that was to happen has no receipt",
        ERROR: "The run itself could not go on",
    }[verdict.code]
    text = counted.failed or counted.broken or verdict.reason
    lacking = [
        f"{receipt.name} ({receipt.verb}): not {receipt.missing}"
        f"{': ' + receipt.why if receipt.why else ''}"
        for receipt in result.receipts
        if not receipt.complete
    ]
    also = "".join(f"<li>{escape(each)}</li>" for each in lacking)
    before = "\n".join(f"{line.at_ms:7d}  {line.event}  {line.text}".rstrip()
                       for line in result.log[-12:])  # fmt: skip
    rule = rule_of(text) if verdict.code == INVARIANT else ""
    return (
        f"<h2>{escape(told)}</h2>"
        + (
            f"<p>What has to be so: <strong>{escape(rule)}</strong>. It was not:</p>"
            if rule
            else ""
        )
        + f"<pre>{escape(text)}</pre>"
        + (f"<p>Without a receipt:</p><ul>{also}</ul>" if also else "")
        + (f"<p>The last events of the run:</p><pre>{escape(before)}</pre>" if before else "")
    )


def _charts(result: Result, draw: Draw) -> str:
    return (
        f"<h2>What happened</h2>{_legend(result)}"
        f'<div class="chart wide">{draw(result, wide=True)}</div>'
        f'<div class="chart narrow">{draw(result, wide=False)}</div>'
    )


def _legend(result: Result) -> str:
    """Of the colours that this run has."""
    faults = {family(receipt.verb): receipt for receipt in result.receipts if receipt.fault}
    used = [(name, f"fault of a {name.partition('-')[2]}") for name in sorted(faults)]
    kinds = sorted(set(result.figures.answers.kind))
    used += [(KINDS[kind], KINDS[kind]) for kind in kinds]
    outcomes = figures.answered(result.figures.answers)
    if outcomes["failed"] + outcomes["unknown"] + outcomes["open"]:
        used.append(("bad", "refused or unknown"))
    marks = "".join(
        f'<span><i style="background:var(--{name})"></i>{escape(text)}</span>'
        for name, text in used
    )
    return f'<p class="legend">{marks}</p>'


# ---------------------------------------------------------------------------------- tables


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell | tuple[str, str]]]) -> str:
    """columns that end in # hold numbers. A cell may be (text, tone)."""
    names = [
        f'<th class="number">{escape(name[:-1])}</th>' if name.endswith("#")
        else f"<th>{escape(name)}</th>"
        for name in columns
    ]  # fmt: skip
    lines = []
    for row in rows:
        cells = []
        for name, cell in zip(columns, row, strict=True):
            text, tone = cell if isinstance(cell, tuple) else (cell, "")
            shown = "–" if text is None else f"{text}"
            kind = " ".join(each for each in ("number" if name.endswith("#") else "", tone) if each)
            cells.append(f'<td class="{kind}">{escape(shown)}</td>' if kind
                         else f"<td>{escape(shown)}</td>")  # fmt: skip
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="broad"' if len(columns) > BROAD else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{"".join(names)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _sections(result: Result, others: Sequence[tuple[int, str, str]]) -> list[str]:
    return [
        _expected(result), _receipts(result), _failovers(result), _waits(result), _resyncs(result),
        _seeds(result, others), _log(result),
    ]  # fmt: skip


def _expected(result: Result) -> str:
    rows = [
        (each.what, each.wanted, each.seen, ("held", "good") if each.held else ("missed", "bad"))
        for each in result.verdict.expected
    ]
    return "<h2>Expected and seen</h2>" + _table(("expected", "wanted", "seen", ""), rows)


def _receipts(result: Result) -> str:
    if not result.receipts:
        return ""
    rows = []
    for receipt in result.receipts:
        evidence = "; ".join(f"{station}: {text}" for station, text in receipt.evidence.items())
        state = ("complete", "good") if receipt.complete else (f"not {receipt.missing}", "unsure")
        last = rc.HEALED if receipt.fault else rc.DONE
        whom = receipt.places.text() if receipt.fault else ""
        rows.append((
            receipt.name, receipt.verb, receipt.target, whom, receipt.at_ms.get(rc.REQUESTED),
            receipt.at_ms.get(rc.APPLIED), receipt.at_ms.get(rc.OBSERVED), receipt.at_ms.get(last),
            state, evidence + (f" {receipt.why}" if receipt.why else ""),
        ))  # fmt: skip
    columns = (
        "step", "what", "target", "it was", "requested#", "applied#", "observed#", "healed#",
        "receipt", "evidence",
    )  # fmt: skip
    return "<h2>Receipts</h2>" + _table(columns, rows)


def _failovers(result: Result) -> str:
    if not result.failovers:
        return ""
    rows = [
        (each.name, " ".join(f"n{node}" for node in each.nodes), each.at_ms, each.detected_ms,
         each.fenced_ms, each.taken_over_ms, each.acknowledged_ms, each.redundant_ms, each.moved)
        for each in result.failovers
    ]  # fmt: skip
    columns = (
        "loss", "nodes", "struck at#", "detect#", "fence#", "takeover#", "first answer#",
        "redundant again#", "regions moved#",
    )  # fmt: skip
    return (
        "<h2>Failover, milliseconds after the loss</h2>"
        + _table(columns, rows)
        + '<p class="about">Detect: another node suspects it. Fence: the catalog calls it down,'
        " and a new epoch makes whatever it still does void. Takeover: the last of its regions is"
        " served elsewhere, after the end of every lease. First answer: to a host, from a region"
        " that moved. –: it did not come to that.</p>"
    )


def _waits(result: Result) -> str:
    answers = result.figures.answers
    if not len(answers):
        return ""
    rows: list[Sequence[Cell]] = []
    for host in sorted(set(answers.host)):
        waits = [
            (end_us - start_us) / 1000
            for start_us, end_us, whose in zip(
                answers.start_us, answers.end_us, answers.host, strict=True
            )
            if whose == host and end_us >= 0
        ]
        total = sum(whose == host for whose in answers.host)
        rows.append((
            f"h{host}", total, total - len(waits),
            *(f"{figures.quantile(waits, part):.2f}" for part in (0.5, 0.95, 0.99)),
            f"{max(waits, default=0):.1f}",
        ))  # fmt: skip
    columns = (
        "host", "operations#", "never answered#", "median ms#", "95 % ms#", "99 % ms#",
        "longest ms#",
    )  # fmt: skip
    stalled = [
        (f"{each.from_ms:.0f}", f"{each.to_ms:.0f}", f"{each.longest_ms:.0f}", each.operations,
         " ".join(f"h{host}" for host in each.hosts))
        for each in figures.stalls(answers, figures.until_ms(result))
    ]  # fmt: skip
    marked = (
        _table(("stall from#", "to#", "longest wait ms#", "operations#", "hosts"), stalled)
        if stalled
        else "<p>No operation stalled.</p>"
    )
    return f"<h2>What hosts waited</h2>{_table(columns, rows)}{marked}"


def _resyncs(result: Result) -> str:
    rows = [
        (each.mode, each.copies, each.pages, _bytes(each.sent_bytes), each.longest_ms)
        for each in figures.resyncs(result.figures.notes)
    ]
    hidden = figures.exposure(result.track)
    text = (
        f"Some region lacked a copy for {hidden.span_ms} ms; over all regions that is"
        f" {hidden.region_ms / 1000:.2f} region seconds, and {hidden.longest_ms} ms for one region."
    )
    columns = ("how", "copies#", "pages#", "sent#", "longest ms#")
    table = _table(columns, rows) if rows else "<p>No copy had to be filled.</p>"
    return f"<h2>Exposure, and what filled the copies</h2><p>{text}</p>{table}"


def _seeds(result: Result, others: Sequence[tuple[int, str, str]]) -> str:
    if not others:
        return ""
    rows = [*others, (result.seed, result.verdict.word, result.verdict.reason)]
    return f"<h2>All {len(rows)} seeds; above is the last</h2>" + _table(
        ("seed#", "verdict", "why"), [(seed, word, _short(why)) for seed, word, why in rows]
    )


def _log(result: Result) -> str:
    rows = [(line.at_ms, line.event, line.text) for line in result.log[:LINES_MAX]]
    return (
        f"<details><summary>Every event of the run ({len(result.log)})</summary>"
        + _table(("ms#", "event", ""), rows)
        + "</details>"
    )
