"""`python -m quotas` is the command `quotas`."""

from quotas.cli import main

main()
