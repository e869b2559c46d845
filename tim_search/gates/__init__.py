"""One gate for each danger at the edge: files that come in, texts that go out, counts that must not be told."""
