"""``python -m petlbench`` is the command ``petlbench``."""

from petlbench.cli import main

if __name__ == "__main__":
    main()
