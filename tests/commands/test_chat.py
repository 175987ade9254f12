"""`sen chat`: answers to questions of options, of a pipe and of a terminal; what was seen; and errors before any work."""

import builtins
import io
import json
import sys
from pathlib import Path

import pytest
from tiny_chat import VISUAL_TOKENS, make_tiny_sen, save_chat_model
from transformers import pipeline

import modeling_sen
import sen_cli
from modeling_sen import ChatSession
from modeling_sen.commands.chat import chat

LENGTH = 6


@pytest.fixture(scope="module")
def chat_folder(towers, tmp_path_factory) -> str:
    return save_chat_model(make_tiny_sen(towers), tmp_path_factory.mktemp("chat") / "tiny")


@pytest.fixture(scope="module")
def session(chat_folder) -> ChatSession:
    loaded = pipeline("video-chat", model=chat_folder, device="cpu")
    return ChatSession(loaded.model, loaded.processor, max_new_tokens=LENGTH)


@pytest.fixture
def answers(session, clips):
    """Answers to questions of one conversation about the first clip."""

    def ask(*questions: str) -> list[str]:
        session.reset()
        session.add_video(clips[0])
        return [session.ask(question)["answer"] for question in questions]

    return ask


@pytest.fixture
def run(chat_folder, clips, monkeypatch):
    def run(*options: str, stdin: str = "", video: str | None = None) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        arguments = ["--model", chat_folder, "--max-new-tokens", str(LENGTH), "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", ["sen", "chat", video or str(clips[0]), *arguments])
        with pytest.raises(SystemExit) as stop:
            sen_cli.main()
        assert stop.value.code == 0

    return run


@pytest.fixture
def typed(monkeypatch):
    """A terminal at which lines are typed; an exception is raised in place of a line."""

    def typed(*lines) -> list[str]:
        prompts, rest = [], iter(lines)

        def read(prompt: str = "") -> str:
            prompts.append(prompt)
            line = next(rest, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(builtins, "input", read)
        monkeypatch.setattr(sys, "stdin", Terminal())
        return prompts

    return typed


def test_questions_of_options_are_one_conversation(run, answers, clips, capsys):
    run("--question", "What is it?", "-q", "And then?")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == answers("What is it?", "And then?")
    assert f"{clips[0]}: 2 frames at 0.5, 1.5 s, with sound\n" in shown.err
    assert shown.err.count("truncated: increase --max-new-tokens for a longer answer") == 2


def test_lines_of_json(run, answers, clips, capsys):
    run("--json", "--num-frames", "4", "--start", "1", "--end", "2", stdin="What is it?\n\nAnd then?\n")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == ["videos", "sound", "question", "answer", "frame_times", "visual_tokens", "finish_reason"]
    assert (first["videos"], first["sound"]) == ([str(clips[0])], [True])
    assert first["frame_times"][0] == pytest.approx([1.125, 1.375, 1.625, 1.875], abs=0.07)
    assert first["visual_tokens"] == second["visual_tokens"] == 2 * VISUAL_TOKENS
    assert [first["question"], second["question"]] == ["What is it?", "And then?"]


def test_lines_of_a_pipe(run, answers, capsys):
    run(stdin="What is it?\nAnd then?\n/reset\nAnd then?\n/quit\nWhy?\n")
    [single] = answers("And then?")
    assert capsys.readouterr().out.splitlines() == [*answers("What is it?", "And then?"), single]


def test_several_videos_are_seen_together(chat_folder, clips, session, capsys):
    files = [str(clip) for clip in clips[:2]]
    chat(files, ["Which is longer?"], model=chat_folder, fps=2.0, max_new_tokens=LENGTH, device="cpu", as_json=True)
    shown = capsys.readouterr()
    session.reset()
    for file in files:
        session.add_video(file, fps=2.0)
    result = json.loads(shown.out)
    assert {name: result[name] for name in ("answer", "visual_tokens")} == {
        name: value for name, value in session.ask("Which is longer?").items() if name in ("answer", "visual_tokens")
    }
    assert [line.split(": ")[1] for line in shown.err.splitlines() if ".mp4" in line] == [
        "4 frames at 0.2, 0.8, 1.2, 1.8 s, with sound"
    ] * 2


def test_many_times_are_shortened(chat_folder, clips, capsys):
    chat([str(clips[0])], ["What?"], model=chat_folder, num_frames=20, max_new_tokens=2, device="cpu")
    line = next(line for line in capsys.readouterr().err.splitlines() if ".mp4" in line)
    assert ": 20 frames at 0." in line
    assert line.count(",") == 17
    assert "..., 1.9 s" in line.replace("2.0", "1.9")


def test_a_terminal_shows_prompts_and_continues_after_errors(chat_folder, clips, answers, typed, capsys):
    lines = ["What is it?", "/help", "What is <|video|>?", "  ", "And then?", "/quit", "Why?"]
    typed(*lines)
    chat([str(clips[0])], model=chat_folder, max_new_tokens=LENGTH, device="cpu")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == answers("What is it?", "And then?")
    assert "/reset starts a new conversation about the same videos, /quit ends\n" in shown.err
    assert "sen chat: /help: expected /reset, /quit or a question\n" in shown.err
    assert "<|video|>" in shown.err


def test_a_terminal_ends_with_its_input(chat_folder, clips, answers, typed, capsys):
    typed("What is it?")
    chat([str(clips[0])], model=chat_folder, max_new_tokens=LENGTH, device="cpu")
    assert capsys.readouterr().out.splitlines() == answers("What is it?")


def test_an_interrupted_answer_leaves_the_conversation(chat_folder, clips, answers, typed, monkeypatch, capsys):
    ask = ChatSession.ask

    def interrupted(self, question, **options):
        stream = ask(self, question, **options)
        if question != "Stop?":
            return stream

        def pieces():
            yield next(stream)
            stream.throw(KeyboardInterrupt)

        return pieces()

    monkeypatch.setattr(ChatSession, "ask", interrupted)
    typed("What is it?", "Stop?", "And then?")
    chat([str(clips[0])], model=chat_folder, max_new_tokens=LENGTH, device="cpu")
    shown = capsys.readouterr()
    monkeypatch.undo()
    first, second = answers("What is it?", "And then?")
    [stopped] = [answer[0] for answer in answers("What is it?", "Stop?")[1:]]
    assert shown.out == f"{first}\n{stopped}{second}\n"
    assert "sen chat: interrupted" in shown.err


def test_an_interruption_at_the_prompt_ends_the_program(chat_folder, clips, typed, monkeypatch, capsys):
    typed(KeyboardInterrupt())
    monkeypatch.setattr(sys, "argv", ["sen", "chat", str(clips[0]), "--model", chat_folder, "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err.endswith("sen chat: interrupted\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["gone.mp4"], "gone.mp4: no such file"),
        (["empty.mp4"], "empty.mp4: expected a video or sound file, found an empty file"),
        (["gone.mp4", "--num-frames", "2", "--fps", "1"], "num_frames, fps: expected at most one of them"),
        (["gone.mp4", "--num-frames", "0"], "num_frames: expected a whole number of at least 1, found 0"),
        (["gone.mp4", "--start", "2", "--end", "1"], "start: expected less than end"),
        (["gone.mp4", "-q", " "], "question: expected text, found ' '"),
        (["gone.mp4", "--max-new-tokens", "0"], "--max-new-tokens"),
        ([], "Missing argument"),
    ],
)
def test_user_errors_are_one_line_before_any_work(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mp4").touch()
    monkeypatch.setattr(sys, "argv", ["sen", "chat", *options, "--model", "nobody/nothing"])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith("sen chat: ")
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"no video" * 99, [], "bad.mp4: expected a video or sound file"),
        (None, ["--start", "7"], "start: expected less than the video's duration"),
        (None, ["-q", "What is <|video_pad|>?"], "<|video_pad|>"),
        (None, ["-q", "What? " * 400], "expected at most 2048 together, the language model's context"),
    ],
)
def test_later_errors_are_one_line_too(chat_folder, clips, tmp_path, monkeypatch, capsys, content, options, message):
    video = tmp_path / "bad.mp4"
    video.write_bytes(clips[0].read_bytes() if content is None else content)
    monkeypatch.setattr(sys, "argv", ["sen", "chat", str(video), "--model", chat_folder, "--device", "cpu", *options])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.out == ""
    assert shown.err.splitlines()[-1].startswith("sen chat: ")
    assert message in shown.err.splitlines()[-1]


def test_an_error_in_a_pipe_ends_the_program(chat_folder, clips, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sen", "chat", str(clips[0]), "--model", chat_folder, "--device", "cpu"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is <|video|>?\nWhy?\n"))
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""


def test_another_checkpoint_is_refused(sen_folder, clips):
    with pytest.raises(ValueError, match="its model type is 'sen', expected 'sen_chat'"):
        chat([str(clips[0])], ["What?"], model=str(sen_folder))


@pytest.mark.skipif(not Path(modeling_sen.SEN_TINY_CHAT).exists(), reason="no language model in sen-tiny")
def test_the_included_model_is_the_default(clips, capsys):
    chat([str(clips[0])], ["What colour is the object that sounds?"])
    assert capsys.readouterr().out.strip()
