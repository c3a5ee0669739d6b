import pytest

from base.errors import InvalidRequest
from snapshot.refs import ref_of, split_ref, split_snapshot


@pytest.mark.parametrize("pair", [("v1", ""), ("v1", "monday"), ("a.b", "2026-01-01")])
def test_a_view_is_named_in_one_word(pair: tuple[str, str]) -> None:
    assert split_ref(ref_of(*pair)) == pair


@pytest.mark.parametrize("text", ["", "@", "@a", "v1@", "v1@a@b"])
def test_what_names_no_view_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="names no view"):
        split_ref(text)


def test_a_volume_is_no_snapshot() -> None:
    with pytest.raises(InvalidRequest, match="names no snapshot"):
        split_snapshot("v1")
