"""Files that are whole or absent, and the store of everything that was expensive."""
