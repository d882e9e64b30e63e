"""Tests of the error handling of the commands that train and test."""

import pytest

from mcir.engine.entry import report_errors
from mcir.engine.guard import NotFiniteError


def raises(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "error", [ValueError("the file is damaged"), OSError("no space"), NotFiniteError(3, ["l_pix"], ["a.png"])]
)
def test_errors_of_users_are_one_line(capsys, error):
    assert report_errors("x.yml", raises(error)) == 1
    assert capsys.readouterr() == ("mcir: reading x.yml …\n", f"mcir: {error}\n")


def test_ctrl_c_is_no_error(capsys):
    assert report_errors("x.yml", raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_a_bug_is_not_hidden():
    with pytest.raises(KeyError):
        report_errors("x.yml", raises(KeyError("bug")))


def test_the_status_of_the_command_is_returned():
    assert report_errors("x.yml", lambda: 143) == 143
