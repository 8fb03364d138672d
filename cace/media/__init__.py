"""From video files to decoded clips: frames and sound, and the store that contains them."""
