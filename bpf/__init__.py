"""The C programs of the kernel side, as package data; compiled by redirect.loader."""
