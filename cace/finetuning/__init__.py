"""Fine-tuning of the visual encoder by audio-visual contrast."""
