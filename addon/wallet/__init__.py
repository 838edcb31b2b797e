"""The wallet: a process of its own that holds the money. Imported by nobody; asked over a Unix socket."""
