"""``mc``: the caches of a running Core from the command line. It talks HTTP and needs nothing of the runtime."""
