"""Fine-tuning of the visual encoder by audio-visual contrast (section 3.4)."""
