"""From decoded clips, or released features, to the feature store."""
