"""What a developer runs on one machine: ``just up``, ``just seed`` and ``just psql``. The image does not contain it."""
