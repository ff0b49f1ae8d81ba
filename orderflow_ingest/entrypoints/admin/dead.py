"""The command dead: show the dead letters of this host. `orderflow-replay dead` delivers them again."""

import click

from orderflow_ingest.entrypoints.cli.dead_letters import export_dead, find_dead, print_dead, show_dead
from orderflow_ingest.entrypoints.cli.terminal import examples, json_option, load_app, settings_option


@click.command(
    "dead", epilog=examples("orderflow-admin dead", "orderflow-admin dead 1796127363.4711.00 --export order.eml")
)
@click.argument("name", required=False)
@click.option("--export", "file", metavar="FILE", help="Write the mail of NAME, as it came; - is standard output.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@settings_option
def show_dead_letters(
    name: str | None, file: str | None, *, force: bool, as_json: bool, settings_file: str | None
) -> None:
    """Show the dead letters of this host, or the envelope, failures and header of NAME.

    A dead letter is a mail that made the service or a delivery end several times. Nothing tries it again by itself.
    """
    if file:
        if not name:
            raise click.UsageError("--export needs the NAME of a dead letter")
        export_dead(name, file, settings_file, force=force)
        return
    app = load_app(settings_file)
    dead = find_dead((name,) if name else (), app)
    if name:
        show_dead(name, dead[name], app, as_json=as_json)
    else:
        print_dead(dead, app, as_json=as_json)
