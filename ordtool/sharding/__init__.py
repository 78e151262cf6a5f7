"""Long work in numbered shards: planned once, done in this process, in several, or by Ray, and joined in order."""
