"""``python -m chimera_cli``: the same as the console script ``chimera``."""

from chimera_cli.entry import main

if __name__ == "__main__":
    main()
