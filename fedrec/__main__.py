"""``python -m fedrec`` is the command ``fedrec``."""

from fedrec.cli.commands import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
