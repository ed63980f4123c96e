"""`callspool completion SHELL`: what a shell needs to complete commands and options."""

import click

from gateway.cli.output import as_json, json_option, print_json

_WHERE = {
    "bash": 'eval "$(callspool completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(callspool completion zsh)"       # in ~/.zshrc',
    "fish": "callspool completion fish | source      # in ~/.config/fish/config.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_WHERE)))
@json_option
def completion(shell: str) -> None:
    """Print the script with which SHELL (bash, zsh or fish) completes commands, options and their values.

    \b
    eval "$(callspool completion bash)"      # in ~/.bashrc
    eval "$(callspool completion zsh)"       # in ~/.zshrc
    callspool completion fish | source      # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415  # for this command alone

    from gateway.cli import main  # noqa: PLC0415  # the table of commands imports this module

    made = get_completion_class(shell)
    assert made is not None, "one of those that click knows"
    script = made(main, {}, "callspool", "_CALLSPOOL_COMPLETE").source()
    if as_json():
        print_json({"shell": shell, "script": script, "where": _WHERE[shell]})
    else:
        click.echo(script)
