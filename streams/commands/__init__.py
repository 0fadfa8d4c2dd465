"""The commands of `headstart`, one module each. `streams.cli` imports a module only when its command is called."""
