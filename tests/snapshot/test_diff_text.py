from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.units import GiB, MiB
from snapshot.diff_text import Difference, byte_extents, json_lines, map_text, summary_text
from tests.snapshot.test_tree import figure_8

PAGE = 16384


def difference(pages: list[int], size: int = 64 * PAGE, one: int = 2, other: int = 5) -> Difference:
    return Difference(one, other, np.array(sorted(pages), dtype=np.int64), PAGE, size)


@pytest.mark.parametrize(
    ("one", "other", "found", "looked_at"),
    [
        ("2206", "2204", "method 500, one is up the tree of the other", "2206, 2212, 2210"),
        ("2206", "2308", "method 550, their paths meet at 2204", "2206, 2212, 2210, 2308, 2304"),
        ("2206", "2206", "one view", "none"),
    ],
)
def test_figure_8_is_summed_up(one: str, other: str, found: str, looked_at: str) -> None:
    """[00103] and [00111]"""
    tree, number = figure_8()
    text = summary_text(tree, difference([1, 2, 9], GiB, number[one], number[other]))
    assert text == (
        f"{one} → {other} of 2200\n"
        "  changed: 3 pages in 2 extents, 48 KiB of 1 GiB (0.00458 %)\n"
        f"  found by: {found}\n"
        f"  looked at: {looked_at}\n"
    )


def test_extents_are_bytes_and_end_with_the_volume() -> None:
    short = difference([0, 1, 3], 3 * PAGE + 512)
    assert byte_extents(short).tolist() == [[0, 2 * PAGE], [3 * PAGE, 512]]
    assert short.changed_bytes == 2 * PAGE + 512


@given(st.sets(st.integers(0, 5000)), st.integers(1, PAGE // 512))
def test_json_has_every_extent_and_what_is_needed_to_read_them(pages: set[int], tail: int) -> None:
    tree, number = figure_8()
    size = 5000 * PAGE + tail * 512
    given_ = difference(list(pages), size, number["2206"], number["2204"])
    lines = list(json_lines(tree, given_))
    found = json.loads("".join(lines))
    assert (found["volume"], found["from"], found["to"]) == ("2200", "2206", "2204")
    assert found["extents"] == byte_extents(given_).tolist()
    assert found["changed_bytes"] == sum(length for _, length in found["extents"])
    assert all(line.endswith("\n") for line in lines)


def test_json_comes_in_lines_of_bounded_length() -> None:
    tree, _ = figure_8()
    lines = list(json_lines(tree, difference(list(range(0, 9000, 2)), 9000 * PAGE)))
    assert len(lines) == 7
    assert max(len(line) for line in lines) < 20_000
    assert len(json.loads("".join(lines))["extents"]) == 4500


def test_a_map_is_drawn() -> None:
    pages = [0, *range(64, 80), *range(128, 224), *range(256, 512)]
    assert map_text(difference(pages, 16 * MiB), width=8, lines_max=2) == (
        "a sign is 1 MiB; · the same  ░ ≤ 25 %  ▒ ≤ 50 %  ▓ ≤ 75 %  █ ≤ 100 %\n"
        "  0 B |░░█▒████|\n"
        "8 MiB |········|\n"
    )


def test_a_map_of_single_pages_is_drawn_in_ascii() -> None:
    assert map_text(difference([1, 5], 6 * PAGE), width=4, plain=True) == (
        "a sign is 16 KiB; . the same  # changed\n   0 B |.#..|\n64 KiB |.#|\n"
    )


@given(st.sets(st.integers(0, 9999)), st.integers(1, 40), st.integers(1, 9))
def test_a_map_fits_and_shows_every_part_that_changed(
    pages: set[int], width: int, lines_max: int
) -> None:
    lines = map_text(difference(list(pages), 10_000 * PAGE), width=width, lines_max=lines_max)
    rows = [line.split("|")[1] for line in lines.splitlines()[1:]]
    assert len(rows) <= lines_max
    assert all(len(row) <= width for row in rows)
    signs = "".join(rows)
    sign_pages = -(-10_000 // (width * lines_max))
    marked = {at for at, sign in enumerate(signs) if sign != "·"}
    assert marked == {page // sign_pages for page in pages}
