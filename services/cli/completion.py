"""`wirespan completion`: what a shell reads to complete our commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_WIRESPAN_COMPLETE"


@click.command(name="completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, /, *, shell: str) -> None:
    """Print the completion of SHELL, to be put where it looks for it.

    \b
      bash  wirespan completion bash > ~/.local/share/bash-completion/completions/wirespan
      zsh   wirespan completion zsh > ~/.zfunc/_wirespan   (in ~/.zshrc: fpath+=~/.zfunc, before compinit)
      fish  wirespan completion fish > ~/.config/fish/completions/wirespan.fish
    """  # noqa: D301  # \b is click's: leave the lines as they are
    click.echo(completion(ctx.find_root().command, shell))


def completion(command: click.Command, shell: str) -> str:
    """Return the script that a shell reads."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has all that are named above
    script = found(command, {}, "wirespan", _VARIABLE)
    return script.source_template % script.source_vars()
