"""One file per verb of the ``memo`` command."""
