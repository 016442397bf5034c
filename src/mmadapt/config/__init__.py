"""What is typed: where the configuration lies, what it may hold, what it identifies, objects built from it."""
