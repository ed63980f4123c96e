"""Numbers that JSON does not know are replaced by null; everything around them stays."""

import mmap

import pytest

from gateway.calllog.document import parse
from tests.calllog.joined_documents import body


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("posted", "passed", "count"),
    [
        ('"x": NaN', '"x": null', 1),
        ('"x": Infinity', '"x": null', 1),
        ('"x": -Infinity', '"x": null', 1),
        ('"x": [NaN,-Infinity, Infinity ,1e5]', '"x": [null,null, null ,1e5]', 3),
        ('"x": {"y":{"NaN": NaN}}', '"x": {"y":{"NaN": null}}', 1),
        ('"NaN": "NaN", "x": "-Infinity \\" NaN", "y": "\\\\", "z": NaN', None, 1),
        ('"x": NaN, "é": "😀 NaN"', '"x": null, "é": "😀 NaN"', 1),
        ('"x": NaN, "y": "\\ud800 NaN"', '"x": null, "y": "\\ud800 NaN"', 1),
        ('"x": "\\ud800"', None, 0),
        ('"x": "\\udc00\\ud800", "\\ud83d": 5', None, 0),
        ('"x": 1795300690087249415, "y": NaN, "z": 0.000284083999986251', None, 1),
    ],
)
def test_nonfinite_numbers_become_null(size: int, posted: str, passed: str | None, count: int) -> None:
    """NaN and both infinities outside of strings become null and are counted; lone surrogates pass unchanged."""
    passed = posted.replace(": NaN", ": null") if passed is None else passed
    fill = f'", "fill": "{"f" * size}"}}'
    call_log = parse(f'{{"call_id": "a", {posted}, "end": "{fill}'.encode())
    assert body(call_log) == f'{{"call_id": "a", {passed}, "end": "{fill}'.encode()
    assert call_log.nonfinite_numbers == count
    assert call_log.raw_bytes == len(body(call_log))


def test_names_with_lone_surrogates_stay_apart() -> None:
    """Two keys that differ only in a lone surrogate are two members."""
    members = parse(b'{"call_id": "a", "\\ud800": 1, "\\ud801": 2}').members
    assert [bytes(member.value) for member in members.values()] == [b'"a"', b"1", b"2"]


def test_the_copy_lies_where_the_caller_says() -> None:
    """The copy without non-finite numbers is written into the scratch buffer, which is of its exact size."""
    with mmap.mmap(-1, 1 << 16) as area:
        asked: list[int] = []

        def scratch(size: int) -> mmap.mmap:
            asked.append(size)
            return area

        posted = b'{"call_id": "a", "x": [NaN, -Infinity]}'
        expected = b'{"call_id": "a", "x": [null, null]}'
        with pytest.raises(Exception, match="JSON"):
            parse(posted, scratch=scratch)
        assert asked == [len(expected)]
        assert area[: len(expected)] == expected


def test_a_sound_body_needs_no_scratch() -> None:
    """The scratch buffer is not asked for where nothing is replaced."""

    def scratch(size: int) -> bytearray:
        raise AssertionError(f"{size} bytes asked for")

    assert parse(b'{"call_id": "a", "x": "NaN \\ud800"}', scratch=scratch).nonfinite_numbers == 0
