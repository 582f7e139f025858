"""`python -m braggflow`: the command line."""

from braggflow.cli import main

if __name__ == "__main__":
    main()
