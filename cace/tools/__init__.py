"""Commands that look at a machine, a folder of clips or a clip, and change no result."""
