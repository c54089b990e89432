"""`python -m kvorm` and the command `kvorm`."""

import sys


def main() -> None:
    """Run the command line; without the extra it needs, say so in one line."""
    try:
        from kvorm.cli import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"rich", "typer"}:
            raise
        sys.exit(f"kvorm: the command line needs {missing}, which is not installed. Try: pip install 'kvorm[local]'")
    app()


if __name__ == "__main__":
    main()
