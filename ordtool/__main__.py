"""Where the command line begins: `ordtool`, and `python -m ordtool`."""

import signal


def main() -> None:
    """Run the command line.

    While it is imported, Ctrl-C ends the process at once, as it does to other programs: nobody is there yet to catch it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ordtool.cli.app import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
