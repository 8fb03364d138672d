"""What several localizers share: the protocol, attention, relations over time, losses."""
