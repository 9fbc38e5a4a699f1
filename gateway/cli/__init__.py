"""The `tensafe` command: one Typer app, to which every process adds its own commands."""
