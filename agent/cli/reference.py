"""`docs/CLI.md` from the commands themselves: every command, option, default and choice (`scripts/gen-cli`).

Lines are not wrapped, so that neither a terminal nor a version of click changes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from agent.cli.main import SECTIONS, ztun

HEAD = """\
# Command line

Made from the commands by `scripts/gen-cli`; do not edit. `ztun COMMAND --help` says the same. Exit statuses and the
shape of `-o json` are in [OPERATIONS.md](OPERATIONS.md#exit-codes).

Completion of commands, options and names of maps: `eval "$(ztun completion bash)"` in `~/.bashrc`, the same with `zsh`
in `~/.zshrc`, or `ztun completion fish > ~/.config/fish/completions/ztun.fish`.
"""


def render() -> str:
    """The whole file."""
    root = click.Context(ztun, info_name="ztun")
    parts = [HEAD]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        for name in names:
            command = ztun.get_command(root, name)
            assert command is not None
            parts += _command(command, click.Context(command, info_name=name, parent=root))
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### {context.command_path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.command_path} {usage}\n```\n"
    yield from (f"{_one_line(text)}\n" for text in _paragraphs(command))
    options = list(_options(command, context))
    if options:
        yield "\n".join(options) + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, info_name=name, parent=context))


def _paragraphs(command: click.Command) -> list[str]:
    return inspect.cleandoc(command.help or "").split("\n\n")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            names, text = record
            if text:  # of arguments the usage line says all there is
                yield f"- `{names}`: {_one_line(text)}"


def _one_line(text: str) -> str:
    """Free of what Markdown would take for a mark of its own."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    click.echo(render(), nl=False)
