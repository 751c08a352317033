"""What is served over HTTP: so far what monitoring systems ask for."""
