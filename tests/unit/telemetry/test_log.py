import io
import json
import logging
import re
import select
import threading
from collections.abc import Iterator
from typing import Literal

import pytest

from mirror.telemetry.log import Line, LineWriter, fields, request_id, start, tell

logger = logging.getLogger("mirror.front.api.middleware")


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Lines:
    """What comes out on standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def of(
        self,
        message: str,
        facts: dict[str, object],
        style: Literal["text", "json"],
        error: Exception | None = None,
    ) -> list[str]:
        listener = start("info", style)
        logger.warning(message, extra=fields(**facts), exc_info=error)
        listener.stop()
        return self._capsys.readouterr().err.splitlines()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


def raised() -> Exception:
    with pytest.raises(ValueError, match="broken") as caught:
        int("broken")
    return caught.value


def test_a_text_line_has_time_level_message_and_facts(lines: Lines) -> None:
    (line,) = lines.of("upstream is down", {"upstream": "docker.io", "status": 503}, "text")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 WARNING upstream is down"
        r" upstream=docker\.io status=503",
        line,
    )


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("plain/word:1", "plain/word:1"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("line\nbreak", r'"line\nbreak"'),
        ("\x1b[31m", r'"\u001b[31m"'),
        ("\u2028", r'"\u2028"'),
        (None, "None"),
        (0.25, "0.25"),
    ],
)
def test_a_value_is_one_word_of_a_text_line(lines: Lines, value: object, word: str) -> None:
    (line,) = lines.of("request", {"value": value}, "text")
    assert line.endswith(f" request value={word}")


def test_a_message_is_one_line_whatever_it_holds(lines: Lines) -> None:
    (line,) = lines.of("bad request:\nERROR forged", {}, "text")
    assert line.endswith(r"WARNING bad request:\nERROR forged")


def test_a_json_line_has_the_same_facts_as_members(lines: Lines) -> None:
    (line,) = lines.of("upstream is down", {"status": 503, "path": ["a", None]}, "json")
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert found == {
        "level": "warning",
        "logger": "mirror.front.api.middleware",
        "message": "upstream is down",
        "status": 503,
        "path": ["a", None],
    }


def test_what_json_has_no_form_for_is_written_as_text(lines: Lines) -> None:
    (line,) = lines.of("request", {"error": ValueError("why")}, "json")
    assert json.loads(line)["error"] == "why"


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_is_logged_while_a_request_is_answered_has_its_id(
    lines: Lines, style: Literal["text", "json"]
) -> None:
    token = request_id.set("4f2a")
    try:
        (during,) = lines.of("request", {}, style)
    finally:
        request_id.reset(token)
    (after,) = lines.of("request", {}, style)
    expected = "id=4f2a" if style == "text" else '"id": "4f2a"'
    assert expected in during
    assert "4f2a" not in after


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_lines_share_is_told_in_each_as_their_own_facts_are(
    capsys: pytest.CaptureFixture[str], style: Literal["text", "json"]
) -> None:
    listener = start("info", style)
    for status in (200, 404):
        tell(logger, "GET /", {"status": status}, (("client", "agent"), ("::1", "two words")))
    listener.stop()
    for line, status in zip(capsys.readouterr().err.splitlines(), (200, 404), strict=True):
        if style == "text":
            assert line.endswith(f' INFO GET / client=::1 agent="two words" status={status}')
        else:
            facts = {"client": "::1", "agent": "two words", "status": status}
            assert json.loads(line).items() >= facts.items()


def test_what_lines_share_goes_through_logging_where_others_listen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger.name)
    tell(logger, "GET /", {"status": 200}, (("client",), ("::1",)))
    assert vars(caplog.records[0])["fields"] == {"client": "::1", "status": 200}


def test_a_traceback_follows_its_text_line(lines: Lines) -> None:
    first, *rest = lines.of("unexpected", {"kind": "blob"}, "text", raised())
    assert first.endswith("WARNING unexpected kind=blob")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1].startswith("ValueError: invalid literal")


def test_a_traceback_is_a_member_of_its_json_line(lines: Lines) -> None:
    (line,) = lines.of("unexpected", {}, "json", raised())
    assert json.loads(line)["traceback"].startswith("Traceback (most recent call last):")


def test_lines_of_libraries_are_written_too(capsys: pytest.CaptureFixture[str]) -> None:
    listener = start("info", "text")
    logging.getLogger("aiohttp.server").error("Error handling %s", "request")
    listener.stop()
    assert capsys.readouterr().err.endswith(" ERROR Error handling request\n")


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    listener = start("warning", "text")
    logger.info("quiet")
    logger.warning("loud")
    listener.stop()
    assert "quiet" not in capsys.readouterr().err


class Pipe(io.StringIO):
    """Takes nothing until it may; each piece is kept as it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.began = threading.Event()
        self.may_go_on = threading.Event()

    def write(self, text: str) -> int:
        self.began.set()
        assert self.may_go_on.wait(10)
        self.pieces.append(text)
        return len(text)


def write(writer: LineWriter, message: str) -> None:
    writer.write(Line(0, "INFO", "mirror", message, {}, ""))


def test_what_is_told_while_the_last_is_written_is_written_too() -> None:
    pipe = Pipe()
    writer = LineWriter(pipe, lambda line: line.message)
    write(writer, "first")
    assert pipe.began.wait(5)
    write(writer, "second")
    stopping = threading.Thread(target=writer.stop)
    stopping.start()
    stopping.join(0.2)
    assert stopping.is_alive()  # it waits for what is being written
    pipe.may_go_on.set()
    stopping.join(5)
    assert pipe.pieces == ["first\n", "second\n"]


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u20ac", "\U0001f433"])
def test_lines_are_written_together_as_far_as_a_pipe_takes_them_in_one_piece(letter: str) -> None:
    """What is longer than PIPE_BUF, in bytes, is mixed with what other processes write."""
    pipe = Pipe()
    writer = LineWriter(pipe, lambda line: line.message)
    write(writer, "first")
    assert pipe.began.wait(5)  # from now on they wait, and are written together
    lines = [letter * (number % 300) for number in range(400)]
    for line in lines:
        write(writer, line)
    pipe.may_go_on.set()
    writer.stop()
    assert "".join(pipe.pieces).splitlines() == ["first", *lines]
    sizes = [len(piece.encode()) for piece in pipe.pieces]
    assert max(sizes) <= select.PIPE_BUF
    assert min(sizes[1:-1]) > select.PIPE_BUF // 2  # and not one by one


def test_while_nobody_reads_lines_are_bounded_and_whoever_reads_again_is_told() -> None:
    pipe = Pipe()
    writer = LineWriter(pipe, lambda line: f"{line.message} {line.facts.get('lines', '')}".strip())
    write(writer, "first")
    assert pipe.began.wait(10)
    line = "x" * 2**16
    for _ in range(1000):  # 64 MiB
        write(writer, line)
    pipe.may_go_on.set()
    writer.stop()
    lines = "".join(pipe.pieces).splitlines()
    kept = lines.count(line)
    assert kept * len(line) < 16 * 2**20
    assert lines[0] == "first"
    assert lines[-1] == f"nobody read the log {1000 - kept}"


def test_every_line_for_the_journal_has_its_priority(capfd: pytest.CaptureFixture[str]) -> None:
    writer = start("info", "text", to_journal=True)
    _tell(writer, "WARNING", "careful")
    _tell(writer, "ERROR", "broken", traceback="Traceback:\n  here")
    writer.stop()
    lines = capfd.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["<4>", "<3>", "<3>", "<3>"]


def _tell(writer: LineWriter, level: str, message: str, traceback: str = "") -> None:
    writer.write(Line(0.0, level, "mirror", message, {}, "", traceback))
