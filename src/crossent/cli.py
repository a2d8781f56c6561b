"""The command line: `crossent score`, `compare`, `calibrate`, `lm`, `demo` and `doctor`.

Exit codes: 0 success; 1 a failed check or a missed threshold; 2 bad usage or input, a missing package, or a file that
cannot be read or written; 3 a bug in crossent. Each failure prints one line on standard error, and `--debug` adds the
traceback of a bug. An interrupt exits with 130, a closed pipe with 141; both print nothing.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any, Literal

from crossent.errors import MissedError, UsageError, one_line
from crossent.process import prepare, settle
from crossent.version import __version__

_DEBUG = "--debug"
_LONGEST = 300  # characters of an unforeseen error that are shown
_PACKAGE = {"sklearn": "scikit-learn"}
_NARROW = 70  # columns of a terminal below which the panels of rich cut off the names of options


def main() -> None:
    """Run the command line on the arguments of the process, and exit."""
    prepare()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # run() has already reported the failed write
        discard_output()
    settle()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments
        The command and its options, as after `crossent` in a shell.

    Returns
    -------
    int
        0, 1, 2, 3, 130 or 141; see the module.

    Examples
    --------
    >>> run(["--version"])                                                          # doctest: +ELLIPSIS
    crossent ...
    0
    """
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # a terminal that lacks a character shows "?"
            reconfigure(errors="replace")
    try:
        code = _run_command([argument for argument in arguments if argument != _DEBUG])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        discard_output()
        return 141
    except Exception as error:
        return _failed(error, debug=_DEBUG in arguments)
    return code


def _failed(error: Exception, *, debug: bool) -> int:
    """Print one line about an error and return its exit code; no traceback reaches the user from here."""
    if isinstance(error, MissedError):
        return _fail(str(error), 1)
    if (
        isinstance(error, UsageError | ModuleNotFoundError) or type(error) is NotImplementedError
    ):  # such as a core that is not built
        return _fail(str(error))
    if isinstance(error, OSError):
        if error.filename is None:  # standard output: Python would write to it again at exit
            discard_output()
        return _fail(_os_message(error))
    if debug:
        traceback.print_exception(error)
    said = str(error)[:_LONGEST].strip()
    what = type(error).__name__ + (f": {said}" if said else "")
    then = "please report the lines above" if debug else "run it again with --debug and please report what it prints"
    return _fail(f"this is a bug in crossent {__version__}, not in your data: {what}; {then}", 3)


def _run_command(arguments: list[str]) -> int:
    if arguments == ["doctor"] and _missing("typer", "rich"):  # doctor reports missing packages, so it runs
        return _doctor()
    _require("the command line", "typer", "rich")
    return _run_typer(arguments)


def discard_output() -> None:
    """Discard all further writes to standard output, whose reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # standard output is not a file
        _ = os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _run_typer(arguments: Sequence[str]) -> int:
    """Run one command with typer; its usage errors become `UsageError`."""
    import typer
    from typer.main import get_command

    command: Any = get_command(application())
    # Older versions of typer take their usage errors from click, newer ones bring a click of their own. In every
    # version they are the base class of `typer.BadParameter`, which is public.
    usage_error: Any = typer.BadParameter.__base__
    try:
        return int(command.main(list(arguments), prog_name="crossent", standalone_mode=False) or 0)
    except typer.Abort:  # typer raises it for an interrupt, and at the end of an input that it prompts for
        raise KeyboardInterrupt from None
    except SystemExit:  # typer exits like this on a closed pipe; other exits are return codes
        raise BrokenPipeError from None
    except usage_error as error:
        path = getattr(error.ctx, "command_path", "crossent")
        said = error.format_message()
        if said == "Missing option '--out'.":
            said = "Missing option '--out': the file to write the calibrated predictions to"
        raise UsageError(f"{said} (see {path} --help)") from error


def application() -> Any:
    """Return the commands as a `typer.Typer`; a narrow terminal gets their help as plain text."""
    import typer

    app = typer.Typer(
        add_completion=False,
        invoke_without_command=True,
        rich_markup_mode="rich" if get_terminal_size().columns >= _NARROW else None,
        help="Score, compare and calibrate the predictions of classifiers and language models, by cross-entropy.",
    )

    @app.callback()
    def crossent(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
        debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback if crossent has a bug.")] = False,
    ) -> None:
        if version:
            typer.echo(f"crossent {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    from crossent.scoring.cli import commands

    commands.add(app, _require)

    @app.command()
    def demo(  # pyright: ignore[reportUnusedFunction]
        out: Annotated[Path, typer.Option(help="Output directory for the report and the predictions.")] = Path(
            "demo-output"
        ),
        seed: Annotated[
            int,
            typer.Option(
                min=0, max=2**32 - 1, help="Random seed of the train/test split and of the row order in training."
            ),
        ] = 0,
        epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 60,
    ) -> None:
        """Train two classifiers, print the loss of their predictions, and write a report with pictures."""
        _require("demo", "torch", "sklearn", "matplotlib")
        from crossent.demo import run as run_demo

        _ = run_demo(out, seed=seed, epochs=epochs)

    @app.command()
    def doctor(  # pyright: ignore[reportUnusedFunction]
        model: Annotated[
            str | None,
            typer.Option(
                help="Explain a model instead: can fuse_lm_head fuse its head, and how much memory does a training "
                "step need? MODEL is a folder with config.json, a .gguf file, or a class, package.module:Name. Weights "
                "are not loaded. Only a class runs code: its module is imported.",
                metavar="MODEL",
            ),
        ] = None,
        batch: Annotated[int, typer.Option(min=1, help="Sequences per training step, with --model.")] = 8,
        length: Annotated[int, typer.Option(min=1, help="Tokens per sequence, with --model.")] = 1024,
        dtype: Annotated[
            Literal["float32", "bfloat16", "float16", "float64"] | None,
            typer.Option(help="Dtype of the model, with --model. Default: the dtype in its configuration."),
        ] = None,
        device: Annotated[
            Literal["cpu", "cuda"] | None,
            typer.Option(help="Device of the training step, with --model. Default: cuda if there is a GPU, else cpu."),
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print JSON, with --model.")] = False,
    ) -> None:
        """Print versions, instruction sets, threads and backends, and check the results of the core.

        With --model, estimate the training memory of a model's head instead. The exit code is 1 if the head would
        compute all logits at once.
        """
        if model is None:
            if json or dtype or device or (batch, length) != (8, 1024):
                raise UsageError("--batch, --length, --dtype, --device and --json need --model MODEL")
            raise typer.Exit(_doctor())
        _require("doctor --model", "torch", extra="torch")
        from crossent.named_model import explain_named

        found = explain_named(model, batch=batch, length=length, dtype=dtype, device=device)
        typer.echo(dumps(found.to_dict()) if json else str(found))
        raise typer.Exit(0 if found.saves else 1)

    return app


def _doctor() -> int:
    from crossent.doctor import examine

    return 0 if examine() else 1


def _missing(*modules: str) -> list[str]:
    """Return the names of the packages whose modules cannot be imported."""
    return [_PACKAGE.get(module, module) for module in modules if find_spec(module) is None]


def _require(command: str, *modules: str, extra: str = "demo") -> None:
    """Raise UsageError with a line to print unless all modules can be imported."""
    if missing := _missing(*modules):
        verb = "is" if len(missing) == 1 else "are"
        names = " and ".join(missing)
        raise UsageError(f"{command} needs {names}, which {verb} not installed: pip install 'crossent[{extra}]'")


def _os_message(error: OSError) -> str:
    """Return the file, the problem and the fix."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename} is a file, not a directory; choose another directory with --out"
    where = f" to {error.filename}" if error.filename else ""
    return f"cannot write{where}: {error.strerror or error}"


def _fail(message: str, code: int = 2) -> int:
    with suppress(BrokenPipeError):
        print(f"crossent: {one_line(' '.join(message.splitlines()))}", file=sys.stderr, flush=True)
    return code
