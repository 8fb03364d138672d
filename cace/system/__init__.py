"""What every package needs: files, downloads, processes, devices, errors."""
