"""`python -m agent` is the `ztun` command."""

from agent.cli.entry import main

if __name__ == "__main__":
    main()
