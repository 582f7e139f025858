"""The command line: verbs, options, and what the terminal shows. `braggflow.cli.main` is its door."""
