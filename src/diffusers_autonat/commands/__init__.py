"""One module for each command of `diffusers-autonat`: `register(commands)` adds its arguments, `run(args)` does it."""
