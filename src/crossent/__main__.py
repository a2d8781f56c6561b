"""The command line as a program: `crossent`, or `python -m crossent`."""

from crossent.process import prepare


def main() -> None:
    """Run the command line on the arguments of the process, and exit."""
    prepare()  # before the imports of the command line, which take time
    from crossent import cli

    cli.main()


if __name__ == "__main__":
    main()
