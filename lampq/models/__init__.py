"""Models as the framework sees them: stem, ordered blocks, tail, and typed sites."""
