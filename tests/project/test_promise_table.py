"""Reading the table of promises."""

import pytest

from tests.project.promises import Promise, Reference, promises

TABLE = """
Words before.

| Promise | Kept in | Fails without it |
|---|---|---|
| A 2xx means durable | `spool/errors.py::SpoolError`, `spool/schema/1.sql` | `tests/a.py::test_b`, `tests/a.py::C.d` |
| Nothing named | - | later |

| Other | Kept in | Fails without it |
|---|---|---|
| not a promise | `x.py` | `y.py` |
"""


def test_rows_are_read_with_their_references() -> None:
    """Each row gives its words, and every file that its cells name; other tables are left alone."""
    first, second = promises(TABLE)
    assert first == Promise(
        "A 2xx means durable",
        (Reference("spool/errors.py", "SpoolError"), Reference("spool/schema/1.sql", None)),
        (Reference("tests/a.py", "test_b"), Reference("tests/a.py", "C.d")),
    )
    assert second == Promise("Nothing named", (), ())


@pytest.mark.parametrize(
    ("path", "name", "there"),
    [
        ("spool/errors.py", "SpoolFull", True),
        ("spool/errors.py", "SpoolFull.__init__", True),
        ("spool/records.py", "LEGAL_TRANSITIONS", True),
        ("spool/records.py", None, True),
        ("spool/errors.py", "SpoolGone", False),
        ("spool/errors.py", "__init__", False),
        ("spool/gone.py", None, False),
    ],
)
def test_a_reference_exists_where_its_name_is_defined(path: str, name: str | None, there: bool) -> None:
    """A file that was moved, or a name that was changed, is found out."""
    assert Reference(path, name).exists() is there
