"""`cnn-tl`, and `python -m cnn_tl`: signals are heard first, for the rest takes a moment to load."""

from cnn_tl import interrupts


def main() -> None:
    """Entry point of the console script."""
    interrupts.raise_on_signals()
    try:
        from cnn_tl.cli.app import main as command
    except BaseException:
        if number := interrupts.arrived():
            interrupts.leave(number)
        raise
    command()


if __name__ == "__main__":
    main()
