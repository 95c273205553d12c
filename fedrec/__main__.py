"""``python -m fedrec`` is the command ``fedrec``."""

from fedrec.cli.commands import main

if __name__ == "__main__":
    main()
