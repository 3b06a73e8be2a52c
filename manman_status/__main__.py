"""The entry points. They load the commands, which need the extra `cli`: the reporter does not."""

from __future__ import annotations

import sys


def main() -> None:
    run(sys.argv[1:])


def start_status_api() -> None:
    run(["start-status-api", *sys.argv[1:]])


def start_status_processor() -> None:
    run(["start-status-processor", *sys.argv[1:]])


def run(tokens: list[str]) -> None:
    try:
        from manman_status import cli
    except ModuleNotFoundError as error:
        if error.name != "cyclopts":
            raise
        sys.exit("manman-status: commands need the cli extra: pip install 'manman-status[cli]'")
    cli.run(tokens)


if __name__ == "__main__":
    main()
