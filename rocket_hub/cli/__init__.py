import sys
import traceback

from rocket_hub.errors import HubError, InputError, RocketError

STOPPED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run a command and turn an error into one line and an exit code.

    Exit codes: 0 done, 2 the user's input, 3 the Hub, 1 anything else, 130 stopped with Ctrl-C.
    """
    import click

    from rocket_hub.cli.app import cli, refuse_old_spelling

    try:
        refuse_old_spelling(sys.argv[1:] if arguments is None else arguments)
        cli.main(arguments, prog_name="rocket-hub", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(STOPPED)
    except RocketError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 3 if isinstance(error, HubError) else 1)
    except Exception:
        traceback.print_exc()
        print("error: this is a bug in rocket_hub; please report it with the lines above", file=sys.stderr)
        sys.exit(1)
