"""`python -m crossent` is the command line, also where the command `crossent` is not on the path."""

from crossent.cli import main

if __name__ == "__main__":
    main()
