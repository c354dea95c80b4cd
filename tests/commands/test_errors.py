"""Words for the errors of others: libraries and the operating system."""

from __future__ import annotations

import errno

import pytest

from lorarar.errors import describe_os_error, said_by


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("size mismatch for\n\tconv.weight: 3 and 4"), "size mismatch for conv.weight: 3 and 4"),
        (RuntimeError(" \n"), "RuntimeError"),
        (OSError(), "OSError"),
        (ValueError("x" * 200), "x" * 200),
        (ValueError("x" * 201), "x" * 199 + "…"),
    ],
    ids=["lines", "blank", "nothing", "as long as may be", "too long"],
)
def test_what_a_library_says_is_one_short_line(error: Exception, said: str) -> None:
    assert said_by(error) == said


def test_other_os_errors_keep_their_words() -> None:
    assert describe_os_error(OSError(errno.EIO, "Input/output error")) == "Input/output error"
