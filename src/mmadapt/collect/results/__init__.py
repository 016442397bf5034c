"""Result files read, and which of them belong together."""
