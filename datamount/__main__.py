"""`python -m datamount` is `datamount`."""

from datamount.cli import main

if __name__ == "__main__":
    main()
