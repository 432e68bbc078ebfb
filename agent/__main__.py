"""`python -m agent` is the `ztun` command."""

from ztun import main

if __name__ == "__main__":
    main()
