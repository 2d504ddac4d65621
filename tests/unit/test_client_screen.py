"""What a person sees, on a terminal and in a file."""

from io import StringIO

import pytest

from runstream.client.screen import Screen


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_a_file_gets_the_text_as_it_is() -> None:
    out, err = StringIO(), Terminal()
    screen = Screen(out, err)
    screen.write("a\x1b[2Jb\r\0")
    screen.say("Trying again.")
    screen.write("c")
    screen.close()
    assert out.getvalue() == "a\x1b[2Jb\r\0c"


def test_a_text_cannot_steer_a_terminal(terminal: Terminal) -> None:
    screen = Screen(terminal, terminal)
    screen.write("a\x1b[2J\x07\x9b1mb\n\tc\n")
    screen.say("failed: \x1b]0;title\x07")
    shown = terminal.getvalue()
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
    assert "\x9b" not in shown
    assert "b\n\tc\n" in shown


def test_what_is_said_on_a_terminal_has_a_line_of_its_own(terminal: Terminal) -> None:
    screen = Screen(terminal, terminal)
    screen.write("some ")
    screen.say("Trying again.")
    screen.write("text")
    screen.close()
    assert terminal.getvalue() == "some \nTrying again.\ntext\n"


def test_void_text_is_told_once_on_a_terminal(terminal: Terminal) -> None:
    screen = Screen(terminal, terminal)
    screen.write("void")
    screen.void("It begins again")
    assert terminal.getvalue() == "void\nIt begins again: the text before this line is void.\n"


def test_void_text_in_a_file_is_told_there_too() -> None:
    out, err = StringIO(), Terminal()
    screen = Screen(out, err)
    screen.write("void")
    screen.void("It begins again")
    screen.write("true")
    told = "It begins again: the text before this line is void."
    assert out.getvalue() == f"void\n[{told}]\ntrue"
    assert err.getvalue() == f"{told}\n"


def test_where_no_text_was_printed_none_is_void() -> None:
    out, err = StringIO(), Terminal()
    Screen(out, err).void("It begins again")
    assert out.getvalue() == ""
    assert err.getvalue() == "It begins again.\n"


def test_reasoning_is_dim_on_a_terminal_and_stands_apart_from_the_text(terminal: Terminal) -> None:
    screen = Screen(terminal, terminal)
    screen.think("hm")
    screen.think("m")
    screen.write("so")
    screen.think("no\n")
    screen.write("well")
    screen.say("Done.")
    assert terminal.getvalue() == ("\x1b[2mhm\x1b[22m\x1b[2mm\x1b[22m\nso\n\x1b[2mno\n\x1b[22mwell\nDone.\n")


def test_reasoning_cannot_steer_a_terminal(terminal: Terminal) -> None:
    Screen(StringIO(), terminal).think("a\x1b[2J\x9b1m")
    assert terminal.getvalue() == "\x1b[2ma\u241b[2J\ufffd1m\x1b[22m"


def test_reasoning_is_no_part_of_the_text_in_a_file() -> None:
    out, err = StringIO(), StringIO()
    screen = Screen(out, err)
    screen.think("hm")
    screen.write("so")
    screen.think("m")
    screen.say("Done.")
    screen.think("over")
    screen.close()
    assert out.getvalue() == "so"
    assert err.getvalue() == "hmm\nDone.\nover\n"


def test_reasoning_that_is_void_is_told_so() -> None:
    out, err = StringIO(), StringIO()
    screen = Screen(out, err)
    screen.think("hm")
    screen.void("It begins again")
    screen.void("It begins again")
    assert out.getvalue() == ""
    assert err.getvalue() == "hm\nIt begins again: the text before this line is void.\nIt begins again.\n"
