"""Picture and sound: decoding, and the store of decoded clips."""
