"""`cnn-tl` and `python -m cnn_tl`: set up UTF-8 and signals before importing the rest, which takes a moment."""

import sys

from cnn_tl.core import signals, text_encoding


def main() -> None:
    """Entry point of the console script."""
    text_encoding.restart_in_utf8()
    signals.raise_on_signals()
    try:
        from cnn_tl.cli.app import main as command
    except BaseException as error:
        if number := signals.arrived():
            signals.exit_now(number)
        _exit_if_package_is_missing(error)
        raise
    command()


def _exit_if_package_is_missing(error: BaseException) -> None:
    """Exit with one line if a package that every command needs is missing; rich, which prints otherwise, may be it."""
    from cnn_tl.core.errors import ResourceError
    from cnn_tl.core.imports import missing_line

    if isinstance(error, ImportError) and (line := missing_line(error)):
        sys.stderr.write(f"error: {line}\n")
        sys.exit(ResourceError.exit_code)


if __name__ == "__main__":
    main()
