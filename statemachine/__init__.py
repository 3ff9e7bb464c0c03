"""When it happens: state, machine, store, engines, poller, daemon, command line."""
