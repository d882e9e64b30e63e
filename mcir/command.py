"""The command ``mcir``, which Ctrl-C ends without a traceback also while modules are imported."""

from mcir.interrupts import exit_on_interrupt


def main() -> int:
    """Run the command line and return the exit status."""
    exit_on_interrupt()
    from mcir.cli import main

    return main()
