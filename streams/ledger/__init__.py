"""The ledger: an account of every published event id and of every exposure's bins, from the topics and Redis alone."""
