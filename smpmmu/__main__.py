"""`python -m smpmmu`."""

from smpmmu.cli import main

if __name__ == "__main__":
    main()
