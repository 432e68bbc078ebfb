"""The `ztun` command: one file per command, imported only when that command runs."""
