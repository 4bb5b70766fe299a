"""What may stand in front: `examples/fronts/`, each file with its real server."""
