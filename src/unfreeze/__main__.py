"""``python -m unfreeze``."""

from unfreeze.cli.app import main

if __name__ == "__main__":
    main()
