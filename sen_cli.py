# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command `sen`. A verb's module is imported when the verb is called; its options stand beside the function there."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

# purpose -> verb -> (module:function, help)
VERBS_BY_PURPOSE = {
    "Use a SEN": {
        "classify": ("modeling_sen.commands.classify:classify", "Score free-text labels for videos."),
        "encode": ("modeling_sen.commands.encode:encode", "Embed videos into a parquet or npz file."),
        "chat": ("modeling_sen.commands.chat:chat", "Ask questions about videos."),
        "track": ("modeling_sen.commands.track:track", "Track points through a video."),
        "edit": ("modeling_sen.commands.edit:edit", "Change a video as a prompt says."),
        "tune": ("modeling_sen.commands.tune:tune", "Tune an editing adapter on a video, and keep it."),
    },
    "Train and measure": {
        "train": (
            "modeling_sen.commands.train:run",
            "Train a SEN on clips with labels or texts, a tracker, or video chat.",
        ),
        "fit": ("modeling_sen.commands.fit:main", "Fit a head on the embeddings of a few labelled clips."),
        "eval": ("modeling_sen.commands.evaluate:main", "Measure a SEN on test clips by a public protocol."),
    },
    "Publish": {
        "push": ("modeling_sen.commands.push:push", "Upload a checkpoint or adapter to the Hub, with its card."),
    },
    "Look up": {
        "info": ("modeling_sen.commands.info:info", "Neurons, parameters and cost of a checkpoint or preset."),
        "neurons": ("modeling_sen.commands.neurons:neurons", "Encoder types that can be neurons."),
        "presets": ("modeling_sen.commands.presets:presets", "Sets of neurons that go well together."),
    },
    "Bring models": {
        "convert": ("modeling_sen.commands.convert:convert", "Write an original checkpoint in Transformers' classes."),
    },
    "Make clips": {
        "world": ("modeling_sen.commands.world:world", "Write generated clips of which everything is known."),
    },
}
VERBS = {verb: entry for verbs in VERBS_BY_PURPOSE.values() for verb, entry in verbs.items()}

# Verbs whose function takes the arguments as they are -> the function whose options their help and completion show.
PARSE_THEMSELVES = {"train": "modeling_sen.commands.train:usual_flags"}

is_program = False  # whether `main` runs: then importing the package registers nothing with Transformers, see there

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

# Errors that a user can correct; all others are faults of the program.
EXPECTED = (ValueError, OSError, ImportError)
# By name, because importing their modules takes seconds: bad checkpoints, bad config.json files, and too little GPU memory.
EXPECTED_NAMES = {"CheckpointError", "StrictDataclassError", "OutOfMemoryError"}


def main() -> None:
    global is_program
    is_program = True
    arguments = sys.argv[1:]
    if "_SEN_COMPLETE" in os.environ or arguments[:1] in (["--install-completion"], ["--show-completion"]):
        _all_verbs()(arguments, prog_name="sen")
        return
    while arguments[:1] == ["--import"]:
        with one_line_errors("--import", Exception):  # the file's own errors
            import_first("".join(arguments[1:2]))
        arguments = arguments[2:]
    if not arguments or arguments[0] in ("-h", "--help"):
        with one_line_errors("--help"):
            print(_help(), flush=True)
        return
    verb = arguments[0]
    if verb == "--version":
        from importlib.metadata import version

        print(f"sen {version('modeling-sen')}")
        return
    if verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, n=3, cutoff=0.4) or list(VERBS)
        print(f"sen: no verb {verb!r}; did you mean {' or '.join(near)}?", file=sys.stderr)
        sys.exit(2)
    with one_line_errors(verb):
        if verb in PARSE_THEMSELVES and not {"-h", "--help"} & set(arguments):
            _function(VERBS[verb][0])(arguments[1:])
            return
        import typer

        app = typer.Typer(add_completion=False, context_settings=HELP_NAMES)
        app.command()(one_line_errors(verb)(_function(PARSE_THEMSELVES.get(verb, VERBS[verb][0]))))
        status = app(arguments[1:], prog_name=f"sen {verb}", standalone_mode=False)
    sys.exit(status or 0)


def _function(entry: str) -> Callable[..., None]:
    module, function = entry.split(":")
    return getattr(import_module(module), function)


def _all_verbs() -> Callable[..., None]:
    """The whole command line as one program, of which typer makes the completion of a shell."""
    import typer

    app = typer.Typer(context_settings=HELP_NAMES)
    for verb, (entry, words) in VERBS.items():
        app.command(verb, help=words)(_function(PARSE_THEMSELVES.get(verb, entry)))
    return app


def import_first(name: str) -> None:
    """Runs a Python file, or imports a module of the current folder or an installed one, for what it registers.

    Raises:
        ValueError: no name.
        OSError, ImportError: no such file or module.
    """
    if not name:
        raise ValueError("expected a Python file or module")
    from modeling_sen.auto import register

    register()  # the file may use the Auto classes
    if not name.endswith(".py"):
        sys.path.insert(0, os.getcwd())
        import_module(name)
        return
    spec = spec_from_file_location(os.path.basename(name).removesuffix(".py"), name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}: no Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    groups = []
    for purpose, verbs in VERBS_BY_PURPOSE.items():
        groups.append("\n".join([f"{purpose}:", *(f"  {verb:{width}}{text}" for verb, (_, text) in verbs.items())]))
    listed = "\n\n".join(groups)
    return (
        "Super Encoding Network: frozen encoders, associated recursively, for video understanding.\n\n"
        f"Usage: sen [--import FILE_OR_MODULE] VERB ...\n\n{listed}\n\n"
        "--import runs a Python file or module first, e.g. one that calls register_neuron(...).\n"
        "`sen VERB --help` shows a verb's options, `sen --version` the version; `sen --install-completion` makes the shell\n"
        "complete verbs and options."
    )


@contextmanager
def one_line_errors(verb: str, *expected: type[Exception]) -> Iterator[None]:
    """Errors end the program with one line: bad input with status 2, its own faults with 1, an interruption with 130.

    With SEN_TRACEBACK=1, errors are raised.

    Args:
        verb: begins the line.
        expected: further types of errors that a user can correct.
    """
    try:
        yield
    except BrokenPipeError:  # the reader has gone, as in `sen ... | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (closed by the exit)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        print(f"sen {verb}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SEN_TRACEBACK") == "1" or _is_exit(error):
            raise
        of_usage = getattr(error, "format_message", None)  # typer's, of options that do not fit
        message = " ".join((of_usage() if of_usage else str(error)).split())
        names = {each.__name__ for each in type(error).__mro__}
        is_clear = isinstance(error, EXPECTED) or of_usage is not None or bool(names & EXPECTED_NAMES)
        is_expected = is_clear or isinstance(error, expected)
        if not is_clear:
            message = f"{type(error).__name__}: {message} (SEN_TRACEBACK=1 shows where)"
        if not is_expected:
            message = f"this is a fault of sen, not of its input: {message}"
        print(f"sen {verb}: {message}", file=sys.stderr)
        sys.exit(2 if is_expected else 1)


def _is_exit(error: Exception) -> bool:
    """Whether typer itself ends the program (`typer.Exit` is a RuntimeError)."""
    import typer

    return isinstance(error, typer.Exit)


if __name__ == "__main__":
    main()
